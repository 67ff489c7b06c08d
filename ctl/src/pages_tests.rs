//! What the pages for operators say, held against what there is: links, commands and their options, metrics,
//! and the tests and scenarios that they name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;

use crate::cli::Cli;
use crate::fake::Fake;
use crate::metrics;
use crate::spindle::Spindle;

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files of `ctl/docs` with this ending, and README, which is one of the pages.
fn files(ending: &str) -> Vec<PathBuf> {
    let folder = root().join("ctl/docs");
    let entries = fs::read_dir(&folder).expect("ctl/docs");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.push(root().join("README.md"));
    files.retain(|file| file.extension().is_some_and(|own| own == ending));
    assert!(!files.is_empty(), "no page ends with {ending}");
    files
}

/// What stands between these two, each time.
fn between<'a>(text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    let parts = text.split(open).skip(1);
    parts.filter_map(move |part| Some(part.split_once(close)?.0))
}

/// A heading as GitHub makes an anchor of it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    });
    kept.collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut count = 0;
    for file in files("md") {
        let text = read(&file);
        for link in between(&text, "](", ")").filter(|link| !link.starts_with("http")) {
            let (path, part) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => file.clone(),
                path => file.parent().expect("a folder").join(path),
            };
            assert!(target.exists(), "{}: {link}", file.display());
            if !part.is_empty() {
                let text = read(&target);
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.any(|heading| anchor(heading) == part);
                assert!(found, "{}: {link}", file.display());
            }
            count += 1;
        }
    }
    assert!(count > 50, "only {count} links");
}

/// The pieces of a page that are code: spans in backticks, and the lines of blocks.
fn code(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    for (at, part) in text.split("```").enumerate() {
        if at % 2 == 1 {
            pieces.extend(part.lines());
        } else {
            pieces.extend(part.split('`').skip(1).step_by(2));
        }
    }
    pieces
}

#[test]
fn every_command_and_option_is_one() {
    let command = Cli::command();
    let global = ["json", "wide", "help", "version"];
    let mut count = 0;
    for file in files("md") {
        let text = read(&file);
        for piece in code(&text) {
            for (at, name) in piece.match_indices("spindlectl ") {
                // Cargo's package, and the file that is installed.
                if piece[..at].ends_with("-p ") || piece[..at].ends_with("release/") {
                    continue;
                }
                let call = &piece[at + name.len()..];
                // What follows in a line of shell is another command, or a comment.
                let call = call.split(['#', '|', '>', ';', '&', '(']).next();
                let mut words = call.unwrap_or_default().split_whitespace();
                let word = words.next().unwrap_or_default().trim_end_matches(',');
                if let Some(option) = word.strip_prefix("--") {
                    let known = global.contains(&option);
                    assert!(known, "{}: {piece}", file.display());
                    continue;
                }
                let verb = command.find_subcommand(word);
                let verb = verb.unwrap_or_else(|| panic!("{}: {piece}", file.display()));
                for option in words.filter_map(|word| word.strip_prefix("--")) {
                    let option = option.split(['=', ',', '\'']).next().unwrap_or_default();
                    let mut own = verb.get_arguments().filter_map(clap::Arg::get_long);
                    let known = own.any(|long| long == option) || global.contains(&option);
                    assert!(known, "{}: {piece}: --{option}", file.display());
                }
                count += 1;
            }
        }
    }
    assert!(count > 50, "only {count} commands");
}

/// The names of all samples that `metrics` can print.
fn samples() -> BTreeSet<String> {
    let spindles = Spindle::all(&mut Fake::serving()).expect("xenstore");
    let text = metrics::text(&spindles);
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut names = BTreeSet::new();
    for family in families {
        let (name, kind) = family.split_once(' ').expect("a type");
        match kind {
            "histogram" => names.extend(["bucket", "count"].map(|end| format!("{name}_{end}"))),
            _ => drop(names.insert(name.to_string())),
        }
        names.insert(name.to_string());
    }
    names
}

#[test]
fn every_metric_in_the_dashboard_the_alerts_and_the_pages_exists() {
    let samples = samples();
    let mut used = BTreeSet::new();
    let all = ["json", "yml", "md"].into_iter().flat_map(files);
    for file in all {
        let text = read(&file);
        for (at, _) in text.match_indices("spindle_") {
            let before = text[..at].chars().next_back().unwrap_or(' ');
            let end = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            let name = text[at..].split(end).next().unwrap_or_default();
            // Crates, libraries and packages have other names.
            let kinds = ["up", "target", "disk", "core", "deaths", "life", "last"];
            let kind = name.split('_').nth(1).unwrap_or_default();
            if before.is_alphanumeric() || before == '/' || !kinds.contains(&kind) {
                continue;
            }
            assert!(samples.contains(name), "{}: {name}", file.display());
            used.insert(name.to_string());
        }
    }
    assert!(used.len() > 20, "{used:?}");
    let dashboard = read(&root().join("ctl/docs/grafana.json"));
    serde_json::from_str::<serde_json::Value>(&dashboard).expect("JSON");
}

#[test]
fn every_alert_is_explained_and_has_a_test() {
    let alerts = read(&root().join("ctl/docs/alerts.yml"));
    let page = read(&root().join("ctl/docs/metrics.md"));
    let tests = read(&root().join("ctl/docs/alerts.test.yml"));
    let mut count = 0;
    for alert in between(&alerts, "alert: ", "\n") {
        assert!(page.contains(&format!("`{alert}`")), "{alert}");
        assert!(tests.contains(alert), "{alert} has no test");
        count += 1;
    }
    assert_eq!(count, alerts.matches("expr:").count());
}

/// The last column of the comparison with blkback: scenarios, and crates whose tests show it.
#[test]
fn every_proof_that_the_table_of_features_names_exists() {
    let page = read(&root().join("ctl/docs/features.md"));
    let (table, _) = page
        .split_once("## Frontends")
        .expect("a table, then frontends");
    let mut count = 0;
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let proof = row.trim_end_matches('|').rsplit('|').next();
        for name in code(proof.unwrap_or_default()) {
            let scenario = root().join(format!("xtask/rig/scenarios/{name}.sh"));
            let known = scenario.exists() || root().join(name).is_dir();
            assert!(known || name.starts_with("cargo xtask "), "{row}: {name}");
            count += 1;
        }
    }
    assert!(count > 50, "only {count} proofs");
}

/// Tests are named as `FILE: NAME`, planted bugs, which have to be found, as `planted/NAME`, scenarios as
/// `scenarios/NAME`.
#[test]
fn every_test_that_the_threat_model_names_exists() {
    let page = read(&root().join("ctl/docs/threat-model.md"));
    let planted = read(&root().join("xtask/results/planted.md"));
    let (mut tests, mut others) = (0, 0);
    for piece in code(&page)
        .into_iter()
        .filter(|piece| !piece.ends_with("/NAME"))
    {
        if let Some((file, name)) = piece.split_once(".rs: ") {
            let text = read(&root().join(format!("{file}.rs")));
            assert!(text.contains(&format!("fn {name}(")), "{piece}");
            tests += 1;
        } else if let Some(name) = piece.strip_prefix("planted/") {
            let file = root().join(format!("kernel/simulate/planted/{name}.patch"));
            let row = planted
                .lines()
                .find(|line| line.starts_with(&format!("| {name} |")));
            let found = row.is_some_and(|row| !row.contains("| **not** in "));
            assert!(file.exists() && found, "{piece}");
            others += 1;
        } else if let Some(name) = piece.strip_prefix("scenarios/") {
            let file = root().join(format!("xtask/rig/scenarios/{name}.sh"));
            assert!(file.exists(), "{piece}");
            others += 1;
        }
    }
    assert!(tests > 12 && others > 5, "{tests} tests, {others} others");
}
