//! Tests of the controllers.
