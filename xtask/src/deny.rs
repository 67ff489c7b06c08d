//! Part of `ci`: licences, sources and advisories of what Spindle depends on, by cargo-deny.

use std::fs;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::{tools, ui};

/// How long fetching the database of advisories may take.
const FETCH_SECONDS: &str = "60";

/// Checks what is depended on. Gives what was not checked, with the reason.
///
/// # Errors
/// A rule of `deny.toml` is broken, or cargo-deny cannot be had.
pub(crate) fn run(sh: &Shell) -> Result<Option<String>> {
    let deny = tools::cargo_deny(sh)?;
    ui::step("ci", "licences, bans and sources");
    cmd!(sh, "{deny} --log-level error check bans licenses sources")
        .quiet()
        .run()?;
    ui::step("ci", "advisories");
    let fetched = cmd!(sh, "timeout {FETCH_SECONDS} {deny} fetch db")
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()
        .is_ok();
    if !fetched && !has_database() {
        return Ok(Some(
            "advisories: the database of RustSec is not within reach".to_string(),
        ));
    }
    // What was fetched just now, or at an earlier time. The check for yanked releases is done on
    // what cargo has of the index.
    cmd!(sh, "{deny} --offline --log-level error check advisories")
        .quiet()
        .run()
        .context("an advisory concerns something that Spindle depends on")?;
    Ok((!fetched).then(|| {
        "advisories since the last time the database of RustSec was within reach".to_string()
    }))
}

/// Whether there is a database from an earlier time.
fn has_database() -> bool {
    let entries = tools::cargo_home().and_then(|home| fs::read_dir(home.join("advisory-dbs")).ok());
    entries.is_some_and(|mut entries| {
        // A lock is all that a fetch which failed leaves.
        entries.any(|entry| entry.is_ok_and(|entry| entry.path().join(".git").exists()))
    })
}
