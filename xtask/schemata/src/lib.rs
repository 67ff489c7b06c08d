//! Tries the mutants of a crate with one build of it, where cargo-mutants builds once for each.
//!
//! cargo-mutants names them ([`Mutant::parse`]). A copy of the sources gets all of them at once, each behind
//! a switch ("mutant schemata"): `a < b` becomes
//!
//! ```text
//! (if mutant_switch::on(3) { (a) <= (b) } else { a < b })
//! ```
//!
//! and the environment says which one is on ([`build()`]). Each test runs once, alone, to see which
//! mutants it reaches ([`trace`]), and then for each mutant those that reach it ([`attempt`]).
//!
//! A mutant in a constant, or whose types do not fit beside the original, cannot be tried so; it is
//! counted apart ([`Build::unfit`]). Documentation tests do not run.

#![forbid(unsafe_code)]

mod binary;
mod build;
mod mutant;
mod parallel;
mod refused;
mod render;
mod sites;
mod trial;

pub use binary::{Binary, Test, trace};
pub use build::{Build, Workspace, build};
pub use mutant::{Genre, Mutant, Place};
pub use parallel::each;
pub use trial::{Verdict, attempt};
