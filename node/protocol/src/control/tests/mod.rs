//! Tests of the controllers: one by one per rule, and a random walk over a modelled cluster.

mod node;
mod rules;
mod walk;
mod world;
