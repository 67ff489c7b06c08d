//! Volumes that are spread over several runs of blocks, on one disk or several.

#[path = "../common/mod.rs"]
mod common;
mod deaths;
mod flushes;
mod growth;
mod model;
mod sharing;

use std::sync::Arc;

use common::{How, Rig, Sizes};
use spindle_blkif::{Claims, Config};
use spindle_block::{Run, Stretch, Volume};

/// Disks of the rig, of 1 MiB each.
pub const DISKS: usize = 3;
/// Buffers of the rig.
pub const BUFFERS: usize = 64;

/// A rig with disks that have contents of their own.
pub fn rig(depth: usize) -> Rig {
    Rig::sized(&Sizes {
        disks: DISKS,
        apart: true,
        depth,
        buffers: BUFFERS,
        config: Config {
            segments: 32,
            ..Config::default()
        },
    })
}

/// What the volumes are made of: the disks, in blocks of 2 to the power of `shift` bytes; the second and
/// third have caches.
pub fn disks(rig: &Rig, shift: u8) -> Vec<Volume> {
    let disk = |disk| Volume {
        name: format!("ram{disk}"),
        disk,
        sectors: 2048,
        block_shift: shift,
        write_cache: disk > 0,
        map: None,
        ..rig.volume.clone()
    };
    (0..DISKS).map(disk).collect()
}

/// `sectors` in stripes of `chunk` sectors, or on one disk: for each the disk and the first sector.
pub fn stretch(sectors: u64, chunk: u64, runs: &[(usize, u64)]) -> Stretch {
    let run = |&(volume, sector): &(usize, u64)| Run { volume, sector };
    Stretch {
        sectors,
        chunk,
        runs: runs.iter().map(run).collect(),
    }
}

/// Gives the rings from now on a volume of these stretches.
pub fn assemble(rig: &mut Rig, shift: u8, stretches: &[Stretch]) {
    let disks = disks(rig, shift);
    let volume = Volume::assembled("vg/lv".into(), stretches, &disks).unwrap();
    assert!(volume.map.is_some());
    rig.volume = volume;
    rig.claims = (shift > 9).then(|| Arc::new(Claims::new().unwrap()));
}

/// A page of each of the first two disks, and two of the first again.
pub fn four_pages(rig: &mut Rig) {
    let runs = [(0, 80), (1, 160), (0, 240)];
    let lengths = [8, 8, 16];
    let stretches: Vec<_> = (runs.iter().zip(lengths))
        .map(|(run, sectors)| stretch(sectors, 0, &[*run]))
        .collect();
    assemble(rig, 9, &stretches);
}

/// The same with large requests.
pub fn indirect(how: How) -> How {
    How {
        indirect: 32,
        ..how
    }
}

/// A few visits, after which nothing more happens by itself.
pub fn visits(rig: &mut Rig) {
    for _ in 0..4 {
        rig.core.visit(0);
    }
}
