//! The picture of `top` in the pages: its own screen, of three guests that work, as SVG. This test makes it:
//! `SPINDLE_PICTURES=write cargo test -p spindlectl picture`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::TopView;
use crate::fake::Fake;
use crate::sheet::Paper;
use crate::spindle::Spindle;
use crate::tables;

/// The terminal.
const COLUMNS: usize = 100;
const LINES: usize = 24;
/// A character, in the picture's units.
const WIDE: usize = 8;
const HIGH: usize = 17;

/// What a host shows that has worked for so many seconds.
fn after(seconds: u64) -> Vec<Spindle> {
    let mut host = Fake::serving();
    let home = "/local/domain/3";
    let data = format!("{home}/data/spindle");
    for (guest, name, target, reads, writes, errors) in [
        (5, "web", "nvme0n1p1", 41_200, 2_050, 0),
        (6, "db", "vg0/db", 9_300, 18_700, 0),
        (7, "backup", "vg0/backup", 1_200, 0, 0),
    ] {
        for (key, value) in [
            ("state", "4"),
            ("dev", "xvda"),
            ("params", target),
            ("mode", "w"),
        ] {
            host.store(&format!("{home}/backend/vbd/{guest}/51712/{key}"), value);
        }
        host.store(&format!("/local/domain/{guest}/name"), name);
        let (reads, writes) = (reads * seconds, writes * seconds);
        let held = if name == "backup" {
            700_000_000 * seconds
        } else {
            0
        };
        let line = format!(
            "rings=2 rd_req={reads} wr_req={writes} f_req={} rd_sect={} wr_sect={} err={errors} peak=64 \
             notify={} batch=1:{reads},2:{writes} lat_us=32:{},64:{},128:{} held_ns={held}",
            writes / 40,
            reads * 8,
            writes * 16,
            (reads + writes) / 3,
            reads / 2,
            reads / 3,
            reads / 60 + writes / 90,
        );
        host.store(&format!("{data}/stat/{guest}-51712"), &line);
    }
    host.store(&format!("{data}/limits/7-51712"), "group=night:iops=1200");
    host.store(&format!("{data}/limits/6-51712"), "group=night");
    host.store(&format!("{data}/limits/@night"), "bandwidth=400M");
    host.store(
        &format!("{data}/targets/nvme0n1"),
        "nvme0n1 2048 4096 w - x\nnvme0n1p1 1024 4096 w 5/51712:w x\nvg0/db 512 4096 w 6/51712:w x\n\
         vg0/backup 512 4096 w 7/51712:w x",
    );
    for (core, busy) in [(1, 620), (2, 310)] {
        let line = format!(
            "polls={} idle_polls={} sleeps={} grant_calls=0 busy_ns={} idle_ns={}",
            90_000 * seconds,
            20_000 * seconds,
            3_000 * seconds,
            busy * 1_000_000 * seconds,
            (1000 - busy) * 1_000_000 * seconds
        );
        host.store(&format!("{data}/core/{core}"), &line);
    }
    Spindle::all(&mut host).expect("xenstore")
}

/// Text as it stands in XML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn drawn(frame: &str) -> String {
    let (width, height) = (COLUMNS * WIDE + 20, LINES * HIGH + 20);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"spindlectl top\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"#1c2128\"/>\n\
         <g font-family=\"ui-monospace, DejaVu Sans Mono, monospace\" font-size=\"13\" fill=\"#d5dbe3\" \
         xml:space=\"preserve\">\n"
    );
    for (at, line) in frame.split("\r\n").enumerate() {
        let (y, columns) = (10 + (at + 1) * HIGH - 4, line.chars().count());
        if line.trim().is_empty() {
            continue;
        }
        // As wide as the terminal has it, whatever font there is.
        let length = columns * WIDE;
        let _ = writeln!(
            svg,
            "<text x=\"10\" y=\"{y}\" textLength=\"{length}\" lengthAdjust=\"spacing\">{}</text>",
            escaped(line)
        );
    }
    svg + "</g>\n</svg>\n"
}

#[test]
fn the_picture_is_what_top_shows() {
    let (before, now) = (after(100), after(105));
    let sheets = tables::top(&before, &now, 5.0);
    let view = TopView::new(&sheets, None).expect("a column");
    let paper = Paper {
        width: Some(COLUMNS),
        lines: true,
    };
    let frame = view.frame(&sheets, "spindlectl top 03:12:45 UTC", paper, LINES);
    let svg = drawn(&frame);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/top.svg");
    if std::env::var("SPINDLE_PICTURES").is_ok_and(|what| what == "write") {
        fs::write(&path, &svg).expect("written");
    }
    let there = fs::read_to_string(&path).expect("ctl/docs/top.svg");
    assert!(
        there == svg,
        "ctl/docs/top.svg is not what top shows: SPINDLE_PICTURES=write cargo test -p spindlectl picture"
    );
}
