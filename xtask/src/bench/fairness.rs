//! How a guest fares beside hostile neighbours on its core: what `spindle-testkit` plays in virtual
//! time, as a page.

use std::fmt::{self, Write};

use super::played::Played;
use crate::freshness;
use crate::rig::Mark;

const HEAD: &str = "# Fairness\n\n\
    Written by `cargo xtask bench --fairness` from `fairness.txt`; do not edit by hand.\n\n\
    How a guest fares beside hostile neighbours on one ring core. The core, its rings, grant cache \
    and NVMe queue are Spindle's own; disk and time are simulated, so that every run gives the same \
    figures. ";

const COLUMNS: &str = "A neighbour is a guest of its own that keeps each of its rings (16 pages) \
    full. The guest has one ring with persistent grants. Measured over 100 ms of virtual time, after \
    20 ms that do not count; one poll iteration takes 1 us.\n\n\
    - *mean*, *worst*: latency of a 4 KiB read, the guest having one under way at a time;\n\
    - *to alone*: the worst, divided by the worst without neighbours;\n\
    - *share*: with 32 reads of 4 KiB under way, what the guest gets, divided by an equal share of \
    the disk among all guests. More than 1 means that the others could not use theirs.\n\n";

const KINDS: [(&str, &str); 9] = [
    ("none", "–"),
    ("Pages", "reads of 4 KiB"),
    ("Large", "reads of 1 MiB"),
    (
        "Pieces",
        "reads of 127.5 KiB in pieces of 512 bytes, a disk command each",
    ),
    ("Discards", "discards of 1 MiB"),
    ("Flushes", "flushes"),
    (
        "FreshGrants",
        "reads of 44 KiB by grants that were never used before",
    ),
    ("CopiedLarge", "writes of 1 MiB that are copied"),
    ("Mixed", "the first five kinds by turns"),
];

/// The comparison.
pub(super) const FAIRNESS: Played = Played {
    name: "fairness",
    what: "neighbours",
    sources: &freshness::DATA_PATH,
    page,
    draw: None,
};

fn page(record: &[Mark], version: &str) -> Result<String, fmt::Error> {
    let mut page = HEAD.to_string();
    let rows: Vec<&Mark> = record
        .iter()
        .filter(|mark| mark.name == "fairness")
        .collect();
    let alone = rows.iter().find(|mark| mark.get("neighbours") == "0");
    if let Some(alone) = alone {
        write!(
            page,
            "The disk works on {} pages at once, {} us each. ",
            alone.get("channels"),
            alone.get("page_us")
        )?;
    }
    page.push_str(COLUMNS);
    page.push_str(version);
    page.push_str(
        "\n| neighbours | rings of each | what they do | mean, us | worst, us | to alone | share |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let worst_alone = alone.and_then(|mark| mark.number("worst_us"));
    for row in rows {
        let kind = row.get("kind");
        let what = KINDS.iter().find(|(name, _)| *name == kind);
        let to_alone = row
            .number("worst_us")
            .zip(worst_alone)
            .map_or_else(String::new, |(worst, alone)| {
                format!("{:.2}", worst / alone)
            });
        writeln!(
            page,
            "| {} | {} | {} | {} | {} | {to_alone} | {} |",
            row.get("neighbours"),
            row.get("rings"),
            what.map_or(kind, |(_, what)| *what),
            row.get("mean_us"),
            row.get("worst_us"),
            row.get("share"),
        )?;
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_who_and_how_much() {
        let record: Vec<Mark> = [
            "fairness kind=none neighbours=0 rings=0 channels=32 page_us=80 mean_us=80 worst_us=80 share=1.00",
            "fairness kind=Flushes neighbours=4 rings=1 channels=32 page_us=80 mean_us=90 worst_us=120 share=2.50",
        ]
        .into_iter()
        .filter_map(Mark::parse)
        .collect();
        let page = page(&record, "- Spindle abc\n").expect("written");
        assert!(page.contains("32 pages at once, 80 us each"), "{page}");
        assert!(page.contains("- Spindle abc\n"), "{page}");
        assert!(
            page.ends_with("| 4 | 1 | flushes | 90 | 120 | 1.50 | 2.50 |\n"),
            "{page}"
        );
    }

    #[test]
    fn the_page_is_made_of_the_record() {
        FAIRNESS.check_results();
    }
}
