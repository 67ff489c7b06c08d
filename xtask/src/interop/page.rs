//! The page of the table, in Markdown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

use crate::freshness::Age;
use crate::rig::Mark;

const HEAD: &str = "# Interoperability\n\n\
    Written by `cargo xtask interop` from `interop.txt`; do not edit by hand.\n\n\
    Every cell is a run in the rig, and the last one of its kind, whatever its result. Linux: fio \
    writes with four jobs at once in blocks of 4 to 128 KiB and reads back with checksums, on all \
    disks at the same time. GRUB: its `md5sum` reads files that Linux wrote through Spindle. A \
    frontend's data path and number of queues are those that Spindle reports. GRUB has neither \
    persistent grants nor several queues.\n\n\
    | result | meaning |\n\
    | --- | --- |\n\
    | verified | all data is what was written |\n\
    | verified, 2nd try | the same, after the first guest had died |\n\
    | failed | Linux: a checksum is wrong, or an I/O failed |\n\
    | differs | GRUB: a checksum is wrong, or is missing after 60 s |\n\
    | died | Linux: the guest died, twice |\n\
    | no answer | Linux: the guest reported nothing within 5 minutes |\n\
    | served with ... | the disk had another path or number of queues than was asked for |\n\
    | – | not run |\n\n";

/// Writes the page; `age` says how a version relates to the sources of now.
pub(super) fn write(record: &[Mark], age: impl Fn(&str) -> Age) -> Result<String, fmt::Error> {
    let mut page = HEAD.to_string();
    for rig in record.iter().filter(|mark| mark.name == "rig") {
        writeln!(
            page,
            "- Debian {}: Xen {}",
            rig.get("suite"),
            rig.get("xen")
        )?;
    }
    let cells = || record.iter().filter(|mark| mark.name == "cell");
    let versions: BTreeSet<&str> = cells().map(|cell| cell.get("spindle")).collect();
    for version in versions {
        writeln!(page, "- Spindle {version}{}", age(version).note())?;
    }
    let failed = cells().filter(|cell| !is_verified(cell)).count();
    if failed > 0 {
        writeln!(page, "\n**{failed} of {} cells failed.**", cells().count())?;
    }
    table(&mut page, record)?;
    Ok(page)
}

/// Whether the data of this cell was right in the end.
pub(super) fn is_verified(cell: &Mark) -> bool {
    ["verified", "verified, 2nd try"].contains(&cell.get("result"))
}

/// The commit of a cell, without the number of the release.
fn commit(cell: &Mark) -> &str {
    cell.get("spindle").rsplit(' ').next().unwrap_or_default()
}

/// One row for each frontend, path and number of queues; one column for each disk, and the commits
/// that the row was measured at. A cell of a row with several has its own beside it.
fn table(page: &mut String, record: &[Mark]) -> fmt::Result {
    let mut disks: Vec<&str> = Vec::new();
    let mut rows: BTreeMap<[&str; 4], Vec<&Mark>> = BTreeMap::new();
    for cell in record.iter().filter(|mark| mark.name == "cell") {
        let disk = cell.get("disk");
        if !disks.contains(&disk) {
            disks.push(disk);
        }
        let row = ["suite", "frontend", "path", "queues"].map(|key| cell.get(key));
        rows.entry(row).or_default().push(cell);
    }
    let heads = disks.join(" | ");
    writeln!(
        page,
        "\n| suite | frontend | path | queues | {heads} | Spindle |"
    )?;
    writeln!(page, "|{}", " --- |".repeat(5 + disks.len()))?;
    for (row, cells) in rows {
        let commits: BTreeSet<&str> = cells.iter().map(|cell| commit(cell)).collect();
        write!(page, "| {} |", row.join(" | "))?;
        for disk in &disks {
            let of_disk = cells.iter().filter(|cell| cell.get("disk") == *disk);
            let results: BTreeSet<String> =
                of_disk.map(|cell| text(cell, commits.len() > 1)).collect();
            let results: Vec<String> = results.into_iter().collect();
            let text = results.join("; ");
            write!(page, " {} |", if text.is_empty() { "–" } else { &text })?;
        }
        let commits: Vec<&str> = commits.into_iter().collect();
        writeln!(page, " {} |", commits.join(", "))?;
    }
    Ok(())
}

/// The result, in bold if it is a failure.
fn text(cell: &Mark, with_commit: bool) -> String {
    let mut text = cell.get("result").replace('|', "\\|");
    if !is_verified(cell) {
        text = format!("**{text}**");
    }
    if with_commit {
        text = format!("{text} at {}", commit(cell));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{freshness, root};

    fn record(lines: &[&str]) -> Vec<Mark> {
        let parse = |line: &&str| Mark::parse(line).expect("a mark");
        lines.iter().map(parse).collect()
    }

    /// The lines from the table on.
    fn table_of(record: &[Mark]) -> Vec<String> {
        let mut page = String::new();
        table(&mut page, record).expect("written");
        page.trim().lines().map(str::to_string).collect()
    }

    #[test]
    fn a_cell_shows_what_went_wrong_and_each_result() {
        let record = record(&[
            "cell suite=trixie frontend=\"Linux 6.12\" path=copy queues=1 disk=RAM result=died spindle=\"0.1.0 aaa\"",
            "cell suite=trixie frontend=GRUB path=copy queues=1 disk=NVMe result=verified spindle=\"0.1.0 aaa\"",
            "cell suite=trixie frontend=GRUB path=copy queues=1 disk=NVMe result=differs spindle=\"0.1.0 aaa\"",
            "cell suite=trixie frontend=GRUB path=copy queues=4 disk=NVMe result=\"verified, 2nd try\" spindle=\"0.1.0 aaa\"",
        ]);
        assert_eq!(
            table_of(&record),
            [
                "| suite | frontend | path | queues | RAM | NVMe | Spindle |",
                "| --- | --- | --- | --- | --- | --- | --- |",
                "| trixie | GRUB | copy | 1 | – | **differs**; verified | aaa |",
                "| trixie | GRUB | copy | 4 | – | verified, 2nd try | aaa |",
                "| trixie | Linux 6.12 | copy | 1 | **died** | – | aaa |",
            ]
        );
        let page = write(&record, |_| Age::Current).expect("written");
        assert!(page.contains("**2 of 4 cells failed.**"), "{page}");
        assert!(!page.contains("stale"), "{page}");
    }

    #[test]
    fn a_row_of_two_versions_says_which_cell_is_of_which() {
        let record = record(&[
            "rig suite=trixie xen=4.20",
            "cell suite=trixie frontend=GRUB path=copy queues=1 disk=RAM result=verified spindle=\"0.1.0 aaa\"",
            "cell suite=trixie frontend=GRUB path=copy queues=1 disk=NVMe result=verified spindle=\"0.1.0 bbb\"",
        ]);
        assert_eq!(
            table_of(&record)[2],
            "| trixie | GRUB | copy | 1 | verified at aaa | verified at bbb | aaa, bbb |"
        );
        let page = write(&record, |version| match version {
            "0.1.0 aaa" => Age::Stale,
            _ => Age::Current,
        });
        let page = page.expect("written");
        let stale = "- Spindle 0.1.0 aaa (**stale**: the data path has changed since)\n";
        assert!(page.contains(stale), "{page}");
        assert!(page.contains("- Spindle 0.1.0 bbb\n"), "{page}");
    }

    /// What the repository has is what the command writes; but the ages, which change by themselves.
    #[test]
    fn the_page_is_made_of_the_record() {
        let folder = root().join("xtask/results");
        let read = |name: &str| fs::read_to_string(folder.join(name)).expect("a result");
        let text = read("interop.txt");
        let record: Vec<Mark> = text.lines().filter_map(Mark::parse).collect();
        assert_eq!(record.len(), text.lines().count());
        let cells = record.iter().filter(|mark| mark.name == "cell");
        for cell in cells {
            assert!(!cell.get("spindle").is_empty(), "{cell}: of what version?");
        }
        let page = write(&record, |_| Age::Current).expect("written");
        let kept = read("interop.md");
        assert_eq!(freshness::without(&kept), freshness::without(&page));
    }
}
