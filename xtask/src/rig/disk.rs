//! A disk seen from outside: a raw image, made before a run and read by the host afterwards
//! with tools that know nothing of Spindle.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

/// Two partitions of 32 MiB: what `sfdisk` is told.
const PARTITIONS: &str = "label: gpt\n\
    start=2048, size=65536, name=first, uuid=11111111-2222-4333-8444-555555555555\n\
    start=67584, size=65536, name=second, uuid=66666666-7777-4888-9999-aaaaaaaaaaaa\n";

/// Checksums (SHA-256, in hexadecimal) by file name.
pub(crate) type Manifest = BTreeMap<String, String>;

/// Makes an empty disk of so many bytes.
pub(super) fn create(image: &Path, bytes: u64) -> Result<()> {
    let _ = fs::remove_file(image);
    File::create(image)?
        .set_len(bytes)
        .with_context(|| format!("make {}", image.display()))
}

/// Gives a disk a partition table.
pub(super) fn partition(image: &Path) -> Result<()> {
    let sh = Shell::new()?;
    cmd!(sh, "sfdisk --quiet {image}")
        .stdin(PARTITIONS)
        .quiet()
        .run()
        .with_context(|| format!("partition {}", image.display()))
}

/// Checks the ext4 file system on the image.
///
/// # Errors
/// What `e2fsck` found.
pub(crate) fn check(image: &Path) -> Result<String> {
    let sh = Shell::new()?;
    let output = cmd!(sh, "e2fsck -fn {image}")
        .quiet()
        .ignore_status()
        .ignore_stderr()
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "e2fsck finds faults:\n{text}");
    let last = text.lines().last().unwrap_or_default();
    Ok(last
        .split_once(": ")
        .map_or(last, |(_, found)| found)
        .trim()
        .to_string())
}

/// Reads all files of the image's top folder and sums them up.
pub(crate) fn sums(image: &Path, scratch: &Path) -> Result<Manifest> {
    let sh = Shell::new()?;
    let _ = fs::remove_dir_all(scratch);
    fs::create_dir_all(scratch)?;
    let request = format!("rdump /tree {}", scratch.display());
    cmd!(sh, "debugfs -R {request} {image}")
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()?;
    let listing = cmd!(sh, "sh -c 'cd \"$1\" && sha256sum -- *' sum {scratch}/tree")
        .quiet()
        .read()
        .context("sum up the files of the image")?;
    fs::remove_dir_all(scratch)?;
    Ok(listing
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(sum, name)| (name.to_string(), sum.to_string()))
        .collect())
}

/// One checksum over those of all files of the image's top folder, as `sha256sum * | sha256sum`
/// there makes it.
pub(super) fn tree_sum(image: &Path, scratch: &Path) -> Result<String> {
    let sums = sums(image, scratch)?;
    let listing: String = sums
        .iter()
        .map(|(name, sum)| format!("{sum}  {name}\n"))
        .collect();
    let sh = Shell::new()?;
    let line = cmd!(sh, "sha256sum").stdin(listing).quiet().read()?;
    Ok(first_word(&line))
}

/// The checksum of `length` bytes at `offset`.
pub(crate) fn range_sum(image: &Path, offset: u64, length: u64) -> Result<String> {
    let sh = Shell::new()?;
    let (first, length) = ((offset + 1).to_string(), length.to_string());
    let script = "tail -c +\"$2\" \"$1\" | head -c \"$3\" | sha256sum";
    let line = cmd!(sh, "sh -c {script} sum {image} {first} {length}")
        .quiet()
        .read()?;
    Ok(first_word(&line))
}

fn first_word(line: &str) -> String {
    line.split(' ').next().unwrap_or_default().to_string()
}
