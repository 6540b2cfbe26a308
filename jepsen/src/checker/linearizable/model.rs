//! What a model tells the search: states as numbers, and what a call does to them.

pub type State = u32;
/// Calls that ask and answer the same are of one class.
pub type Class = u32;

/// A call as the search sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// Its place among all events.
    pub invoked: u32,
    /// [`NEVER`](crate::history::NEVER): it may take effect at any time after its invocation, or never.
    pub ended: u32,
    pub class: Class,
    /// Which operation of the history it is.
    pub operation: u32,
}

pub trait Model {
    fn start(&self) -> State;

    /// The state after the call; `None`: it cannot have this answer in this state.
    fn step(&mut self, state: State, class: Class) -> Option<State>;

    /// It never changes the state.
    fn reads(&self, class: Class) -> bool;

    /// Every call is legal in one state only ([`Model::needs`]) or in all, and leaves one state ([`Model::leaves`]) or the
    /// one that it found. If what it leaves depends on what it finds, [`Model::places`] says how, and it needs and leaves
    /// nothing for certain; elsewhere it leaves a state that nobody needs.
    fn plain_values(&self) -> bool {
        false
    }

    fn needs(&self, _class: Class) -> Option<State> {
        None
    }

    fn leaves(&self, _class: Class) -> Option<State> {
        None
    }

    /// (found, left)
    fn places(&self, _class: Class) -> &[(State, State)] {
        &[]
    }

    /// The state after the call whatever it was before, if the call tells.
    fn left_for_certain(&mut self, class: Class) -> Option<State> {
        self.leaves(class).or(self.needs(class))
    }

    /// [`Model::leads_to`] can tell something.
    fn looks_ahead(&self) -> bool {
        false
    }

    /// Whether a read may become legal after `state` without a call that [resets](Model::resets).
    fn leads_to(&mut self, _state: State, _read: Class) -> bool {
        true
    }

    /// After it a read may be legal that [`Model::leads_to`] ruled out.
    fn resets(&self, _class: Class) -> bool {
        false
    }

    /// Bytes by which its tables grew since it was asked last.
    fn grown(&mut self) -> usize {
        0
    }
}
