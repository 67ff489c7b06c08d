//! The xenbus backend against the store, a toolstack, frontends and a kernel that keeps books.

mod crowds;
mod frontends;
mod interleavings;
mod life;
mod limits;
mod many;
mod offers;
mod orders;
mod refusals;
mod resume;
mod round_trips;
mod states;
mod unwatched;
