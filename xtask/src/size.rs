//! `size`: how big the image is, and how big and how unsafe each crate is.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::{kernel, root, ui};

/// The crates, by folder.
const CRATES: &[&str] = &[
    "boot",
    "kernel",
    "drivers/hw",
    "drivers/kept",
    "drivers/limits",
    "drivers/lvm",
    "drivers/xen",
    "drivers/blkif",
    "drivers/block",
    "drivers/config",
    "drivers/nvme",
    "drivers/virtio",
    "drivers/pci",
    "drivers/status",
    "drivers/testkit",
    "drivers/fuzz",
    "ctl",
    "xtask",
];

/// What was counted.
#[derive(Default)]
struct Count {
    lines: usize,
    test_lines: usize,
    unsafes: usize,
}

/// Runs the task.
pub(crate) fn run() -> Result<()> {
    kernel::build()?;
    let mut table = ui::table(["crate", "lines", "lines of tests", "unsafe"]);
    let mut total = Count::default();
    for folder in CRATES {
        let mut count = Count::default();
        walk(&root().join(folder), false, &mut count)?;
        table.add_row([
            (*folder).to_string(),
            count.lines.to_string(),
            count.test_lines.to_string(),
            count.unsafes.to_string(),
        ]);
        total.lines += count.lines;
        total.test_lines += count.test_lines;
        total.unsafes += count.unsafes;
    }
    table.add_row([
        "all".to_string(),
        total.lines.to_string(),
        total.test_lines.to_string(),
        total.unsafes.to_string(),
    ]);
    println!("{table}");
    Ok(())
}

fn walk(dir: &Path, tests: bool, count: &mut Count) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            if name != "target" {
                walk(
                    &path,
                    tests || matches!(name.as_str(), "tests" | "benches"),
                    count,
                )?;
            }
        } else if path
            .extension()
            .is_some_and(|extension| extension == "rs" || extension == "S")
        {
            add(&fs::read_to_string(&path)?, tests, count);
        }
    }
    Ok(())
}

/// Counts one file: lines that are neither empty nor comments, and the places where
/// `unsafe` opens a block, a function, an implementation or an attribute.
fn add(text: &str, tests: bool, count: &mut Count) {
    let mut in_tests = tests;
    for line in text.lines().map(str::trim) {
        in_tests |= line == "#[cfg(test)]";
        if line.is_empty() || line.starts_with("//") {
            continue;
        }
        if in_tests {
            count.test_lines += 1;
        } else {
            count.lines += 1;
            count.unsafes += [
                "unsafe {",
                "unsafe fn",
                "unsafe impl",
                "unsafe extern",
                "unsafe(",
                "unsafe trait",
            ]
            .iter()
            .map(|form| line.matches(form).count())
            .sum::<usize>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_not_counted_and_tests_apart() {
        let mut count = Count::default();
        add(
            "//! doc\n\nfn a() {\n    unsafe { b() }\n}\n#[cfg(test)]\nmod tests {\n}\n",
            false,
            &mut count,
        );
        assert_eq!((count.lines, count.test_lines, count.unsafes), (3, 3, 1));
    }
}
