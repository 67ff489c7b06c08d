//! What ctl/docs/limits.md and the configurations for xl say of the memory that a ring takes, which
//! administrators reckon with.

use spindle_blkif::Session;
use spindle_blkif::abi::Abi;

/// Grants that are kept mapped of a ring, by kernel/control/src/rings.rs.
const CACHED_GRANTS: usize = 1056;

/// The whole numbers of KiB in a sentence of ctl/docs/limits.md.
fn said() -> Vec<usize> {
    let page = include_str!("../../../ctl/docs/limits.md");
    let line = page
        .lines()
        .find(|line| line.starts_with("- A ring takes "));
    let words = line.expect("a sentence on the memory of rings").split(' ');
    words
        .filter_map(|word| word.trim_matches(',').parse().ok())
        .collect()
}

#[test]
fn a_ring_takes_as_many_kib_as_is_documented() {
    let kib = |pages| {
        let bytes = Session::footprint(pages, Abi::Native, CACHED_GRANTS, true, false, 0);
        bytes.div_ceil(1024)
    };
    let &[one, sixteen, pages, ..] = &said()[..] else {
        panic!("\"A ring takes N KiB of memory with one page, M KiB with 16\"");
    };
    assert_eq!((one, sixteen, pages), (kib(1), kib(16), 16));
    let short = format!("A ring takes {one} to {sixteen} KiB out of a quarter of it");
    for config in [
        include_str!("../../../xl-configs/spindle-hvm.cfg"),
        include_str!("../../../xl-configs/spindle-pvh-nvme.cfg"),
    ] {
        assert!(config.contains(&short), "{short}");
    }
}
