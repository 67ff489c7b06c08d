//! What the package is made of: the crates that the image and the tool link, as a CycloneDX list and with
//! their licences. Both are made of what cargo knows already, which takes less than a tool that would
//! have to be installed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xshell::{Shell, cmd};

use crate::{kernel, root};

/// What is linked, and for which machine.
const LINKED: [(&str, &str); 3] = [
    ("spindle", kernel::TARGET),
    ("spindlectl", "x86_64-unknown-linux-gnu"),
    ("spindlectl-shim", "x86_64-unknown-linux-gnu"),
];

/// How `cargo tree` is to print a crate: name and version.
const FORMAT: &str = "{p}";

/// A crate of others.
pub(super) struct Part {
    name: String,
    version: String,
    /// An SPDX expression.
    licence: String,
    /// The archive's SHA-256, in hexadecimal.
    checksum: Option<String>,
    /// Where its sources are.
    folder: PathBuf,
}

/// All crates of others that are linked, by name.
pub(super) fn all(sh: &Shell) -> Result<Vec<Part>> {
    let mut linked = BTreeSet::new();
    for (package, target) in LINKED {
        let tree = cmd!(
            sh,
            "cargo tree --locked --package {package} --target {target} --edges normal --prefix none --format {FORMAT}"
        );
        let tree = tree.quiet().read()?;
        linked.extend(tree.lines().filter_map(name_and_version));
    }
    let metadata = cmd!(sh, "cargo metadata --locked --format-version 1");
    let metadata: Value = serde_json::from_str(&metadata.quiet().read()?)?;
    let checksums = checksums(&fs::read_to_string(root().join("Cargo.lock"))?);
    let packages = metadata["packages"].as_array().context("no packages")?;
    let mut parts = Vec::new();
    for package in packages {
        let text = |key: &str| package[key].as_str().unwrap_or_default().to_string();
        let id = (text("name"), text("version"));
        // What has no source is ours.
        if package["source"].is_null() || !linked.contains(&id) {
            continue;
        }
        let manifest = text("manifest_path");
        parts.push(Part {
            checksum: checksums.get(&id).cloned(),
            name: id.0,
            version: id.1,
            licence: text("license").replace('/', " OR "),
            folder: Path::new(&manifest)
                .parent()
                .unwrap_or(Path::new(""))
                .into(),
        });
    }
    ensure!(!parts.is_empty(), "cargo names no crate that is linked");
    parts.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(parts)
}

/// The crate that a line of `cargo tree` is about: `log v0.4.29 (...)`.
fn name_and_version(line: &str) -> Option<(String, String)> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let version = words.next()?.strip_prefix('v')?;
    Some((name.into(), version.into()))
}

/// The checksums in a `Cargo.lock`, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut sums = BTreeMap::new();
    for package in lock.split("[[package]]") {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.trim_start_matches(" = ").trim_matches('"').to_string())
        };
        if let (Some(name), Some(version), Some(sum)) =
            (value("name"), value("version"), value("checksum"))
        {
            sums.insert((name, version), sum);
        }
    }
    sums
}

/// The list in CycloneDX 1.5 (<https://cyclonedx.org/docs/1.5/json/>).
pub(super) fn bill(parts: &[Part], version: &str) -> Result<String> {
    let component = |part: &Part| {
        let purl = format!("pkg:cargo/{}@{}", part.name, part.version);
        let mut component = json!({
            "type": "library",
            "bom-ref": purl,
            "name": part.name,
            "version": part.version,
            "purl": purl,
            "licenses": [{ "expression": part.licence }],
        });
        if let Some(sum) = &part.checksum {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
        }
        component
    };
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": super::NAME,
                "version": version,
                "licenses": [{ "expression": env!("CARGO_PKG_LICENSE") }],
            },
        },
        "components": parts.iter().map(component).collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&bill)? + "\n")
}

/// The licences of all parts, as their archives have them.
pub(super) fn notices(parts: &[Part]) -> Result<String> {
    let mut text = String::from(
        "Spindle's image and tools contain the following crates, by their authors, under their licences.\n",
    );
    for part in parts {
        let Part {
            name,
            version,
            licence,
            ..
        } = part;
        write!(text, "\n{}\n{name} {version}: {licence}\n", "=".repeat(80))?;
        let entries = fs::read_dir(&part.folder)
            .with_context(|| format!("read {}; try cargo fetch", part.folder.display()))?;
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files.iter().filter(|file| is_licence(file)) {
            let licence = fs::read(file).with_context(|| format!("read {}", file.display()))?;
            write!(text, "\n{}\n", String::from_utf8_lossy(&licence).trim_end())?;
        }
    }
    Ok(text)
}

/// Whether a file is one of a licence, by its name.
fn is_licence(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let name = name.to_ascii_uppercase();
    file.is_file()
        && [
            "LICENSE",
            "LICENCE",
            "COPYING",
            "NOTICE",
            "COPYRIGHT",
            "UNLICENSE",
        ]
        .iter()
        .any(|word| name.starts_with(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_cargo_are_read() {
        let line = "log v0.4.29 (proc-macro) (*)";
        assert_eq!(
            name_and_version(line),
            Some(("log".into(), "0.4.29".into()))
        );
        assert_eq!(name_and_version(""), None);
        let lock = "version = 4\n\n[[package]]\nname = \"log\"\nversion = \"0.4.29\"\n\
                    checksum = \"abc\"\n\n[[package]]\nname = \"ours\"\nversion = \"0.1.0\"\n";
        let sums = checksums(lock);
        assert_eq!(sums.len(), 1);
        assert_eq!(sums[&("log".into(), "0.4.29".into())], "abc");
    }

    #[test]
    fn the_list_names_each_part_once_with_its_sum() {
        let part = Part {
            name: "log".into(),
            version: "1.0.0".into(),
            licence: "MIT".into(),
            checksum: Some("abc".into()),
            folder: PathBuf::new(),
        };
        let bill: Value = serde_json::from_str(&bill(&[part], "1").expect("made")).expect("JSON");
        let component = &bill["components"][0];
        assert_eq!(component["purl"], "pkg:cargo/log@1.0.0");
        assert_eq!(component["hashes"][0]["content"], "abc");
        assert_eq!(component["licenses"][0]["expression"], "MIT");
    }
}
