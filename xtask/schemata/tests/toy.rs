//! A small crate with one of each kind of mutants, of which it is known which its tests notice.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use schemata::{Mutant, Verdict, Workspace, attempt, build, trace};
use serde_json::json;

const MANIFEST: &str =
    "[package]\nname = \"toy\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n";

const LIBRARY: &str = r"#![no_std]
extern crate alloc;
pub const LIMIT: u32 = 3 + 4;
pub fn sum(a: u32, b: u32, c: u32) -> u32 { a + b * c }
pub fn small(n: u32) -> bool { n < LIMIT }
pub fn never() -> u8 { 5 }
pub fn unlike(n: u32) -> bool { !small(n) }
pub fn name(n: u32) -> &'static str { match n { 0 => {'none'} 1 if small(n) => 'one', _ => 'many' } }
pub fn count(n: u32) -> u32 { let mut i = 0; while i < n { i += 1; } i }
pub struct NoDefault(pub u32);
pub fn made() -> NoDefault { NoDefault(3) }
pub fn steps(n: u32) -> impl Iterator<Item = u32> { 0..n }
#[derive(Default)] pub struct Pair { pub a: u32, pub b: u32 }
pub fn pair() -> Pair { Pair { a: 1, ..Default::default() } }
";

const TESTS: &str = r"use toy::*;
#[test] fn sums() { assert_eq!(sum(2, 3, 4), 14); }
#[test] fn names() { assert_eq!([name(0), name(1), name(9)], ['none', 'one', 'many']); }
#[test] fn counts() { assert_eq!(count(3), 3); }
#[test] fn unlikes() { assert!(unlike(9)); assert!(!unlike(2)); }
#[test] fn makes() { assert_eq!(made().0, 3); assert_eq!(steps(2).count(), 2); assert_eq!(pair().a, 1); }
#[test] #[ignore] fn fails() { panic!(); }
";

/// What becomes of each mutant.
const MUTANTS: [(&str, &str, &str, &str); 15] = [
    // In the line that begins so, this part becomes that.
    ("pub const", "+", "*", "unfit"),
    ("pub fn sum", "+", "-", "caught"),
    ("pub fn sum", "*", "+", "caught"),
    ("pub fn sum", "a + b * c", "0", "caught"),
    // 6 and 7 are not tried.
    ("pub fn small", "<", "<=", "survived"),
    ("pub fn small", "<", ">", "caught"),
    ("pub fn never", "5", "0", "unreached"),
    ("pub fn unlike", "!", "", "caught"),
    ("pub fn name", "0 => {'none'}", "", "caught"),
    ("pub fn name", "small(n)", "true", "survived"),
    ("pub fn name", "small(n)", "false", "caught"),
    ("pub fn count", "+=", "*=", "timeout"),
    (
        "pub fn made",
        "NoDefault(3)",
        "Default::default()",
        "unviable",
    ),
    ("pub fn steps", "0..n", "::core::iter::empty()", "unfit"),
    ("pub fn pair", "a: 1,", "", "caught"),
];

fn list(library: &str) -> Result<Vec<Mutant>> {
    let mut all = Vec::new();
    for (start, part, replacement, _) in MUTANTS {
        let lines = &mut library.lines().enumerate();
        let (number, line) = lines
            .find(|(_, line)| line.starts_with(start))
            .context(start)?;
        let part = part.replace('\'', "\"");
        let body = line.rfind(&part).context("a part")?;
        let genre = match part.as_str() {
            "+" | "*" | "<" | "+=" => "BinaryOperator",
            "!" => "UnaryOperator",
            "small(n)" => "MatchArmGuard",
            "a: 1," => "StructField",
            _ if replacement.is_empty() => "MatchArm",
            _ => "FnValue",
        };
        all.push(json!({
            "name": format!("{start}: {part} to {replacement}"),
            "file": "src/lib.rs",
            "genre": genre,
            "replacement": replacement,
            "function": { "return_type": if start == "pub fn steps" { "-> impl Iterator" } else { "" } },
            "span": {
                "start": { "line": number + 1, "column": body + 1 },
                "end": { "line": number + 1, "column": body + part.len() + 1 },
            },
        }));
    }
    Mutant::parse(&serde_json::to_string(&all)?)
}

fn make() -> Result<PathBuf> {
    let top = Path::new(env!("CARGO_TARGET_TMPDIR")).join("toy");
    let _ = fs::remove_dir_all(&top);
    for (name, text) in [
        ("Cargo.toml", MANIFEST),
        (
            "src/lib.rs",
            &LIBRARY.replace('\'', "\"").replace("&\"static", "&'static"),
        ),
        ("tests/all.rs", &TESTS.replace('\'', "\"")),
    ] {
        let path = top.join(name);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        fs::write(path, text)?;
    }
    Ok(top)
}

#[test]
fn each_mutant_ends_as_it_must() -> Result<()> {
    let top = make()?;
    let mutants = list(&fs::read_to_string(top.join("src/lib.rs"))?)?;
    let target = top.join("target");
    let workspace = Workspace {
        top: &top,
        folder: "",
        packages: &["toy"],
        target: &target,
        environment: &[],
        until: None,
    };
    let built = build(&workspace, &mutants)?;
    let tests = trace(&built.binaries, &[], &top, None)?.context("time")?;
    assert_eq!(tests.len(), 5, "the ignored one does not run");
    let mut found = BTreeMap::new();
    for mutant in &mutants {
        let verdict = if built.unviable.contains(&mutant.id) {
            "unviable"
        } else if built.unfit.contains(&mutant.id) {
            "unfit"
        } else {
            match attempt(mutant.id, &built.binaries, &tests, &[], &top)? {
                Verdict::Caught => "caught",
                Verdict::Timeout => "timeout",
                Verdict::Survived => "survived",
                Verdict::Unreached => "unreached",
            }
        };
        found.insert(mutant.name.clone(), verdict);
    }
    let expected: BTreeMap<String, &str> = mutants
        .iter()
        .zip(MUTANTS)
        .map(|(mutant, line)| (mutant.name.clone(), line.3))
        .collect();
    assert_eq!(found, expected);
    fs::remove_dir_all(&top)?;
    Ok(())
}
