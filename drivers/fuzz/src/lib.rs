//! Hostile input for everything that others have a say in. A target is a plain function that
//! reads what is to happen from bytes and checks what must hold whatever they are, so that
//! libFuzzer (`cargo xtask fuzz`), the corpus under `cargo test` and a debugger run the same code.
//!
//! | target | hostile is | what must hold besides "no panic" |
//! | --- | --- | --- |
//! | [`boot`] | the domain builder | RAM is what the map calls RAM, and nothing else |
//! | [`config`] | who writes the options | the same text again changes nothing |
//! | [`image`] | who gives a domain another kernel | what is taken is whole, and lies where an image lies |
//! | [`kept`] | a stray write into kept memory | what is read was written, journals are apart |
//! | [`lvm`] | who had a disk with LVM metadata | maps are inside their physical volumes and apart from each other |
//! | [`mbr`], [`partitions`] | who has a whole disk | partitions are parts of that disk, apart from each other, with names of their own |
//! | [`store`] | xenstored | one end to each unit of work, no work without end |
//! | [`xenbus`] | toolstack and a frontend | the kernel's books add up, all ends clean, another guest is served |
//! | [`ring`] | a frontend's ring | another ring's data is right, the disk only reaches granted memory, nothing leaks |
//! | [`neighbours`] | several guests' requests, a disk and a grant table that fail | an honest guest's reads come in time and are its own, each command is inside the volume of who asked, nothing leaks |
//! | [`nvme`], [`virtio`] | the controller | each command ends at most once, every wait ends, memory comes back |
#![forbid(unsafe_code)]

mod audit;
pub mod boot;
pub mod config;
mod disk;
pub mod image;
pub mod kept;
pub mod lvm;
pub mod mbr;
pub mod neighbours;
pub mod nvme;
pub mod partitions;
pub mod recovery;
pub mod ring;
pub mod store;
pub mod vary;
pub mod virtio;
pub mod xenbus;

use arbitrary::{Arbitrary, Unstructured};

/// What is to happen, step by step, until the input ends or there were `most` steps; each with its
/// number.
fn steps<'a, S: Arbitrary<'a>>(
    input: &mut Unstructured<'a>,
    most: u32,
) -> impl Iterator<Item = (u32, S)> {
    let step = |number| {
        let more = !input.is_empty();
        Some((number, more.then(|| S::arbitrary(input).ok())??))
    };
    (0..most).map_while(step)
}

/// A target's body.
pub type Run = fn(&[u8]);

/// Every target by name.
pub const TARGETS: [(&str, Run); 14] = [
    ("boot", boot::run),
    ("config", config::run),
    ("image", image::run),
    ("kept", kept::run),
    ("lvm", lvm::run),
    ("mbr", mbr::run),
    ("neighbours", neighbours::run),
    ("nvme", nvme::run),
    ("partitions", partitions::run),
    ("recovery", recovery::run),
    ("ring", ring::run),
    ("store", store::run),
    ("virtio", virtio::run),
    ("xenbus", xenbus::run),
];
