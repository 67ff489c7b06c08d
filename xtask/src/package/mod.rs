//! `package`: a Debian package of the image, the tool and what systemd starts domains by; with a list of
//! what it is made of, and checksums.
//!
//! It is made by Debian's own tools (`dpkg-deb`, `dpkg-shlibdeps`), out of the files in `ctl/debian`. The
//! same commit gives the same bytes, in whatever folder it is built: `--twice` sees whether it does.

mod check;
mod parts;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use self::tree::Tree;
use crate::{kernel, root, tools, ui};

/// The package's name.
const NAME: &str = "spindle";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the package goes [default: target/package].
    #[arg(long)]
    output: Option<PathBuf>,
    /// Also build the last commit in two other folders, and compare the bytes.
    #[arg(long)]
    twice: bool,
    /// Also install, upgrade and remove it in a fresh Debian 12 and 13, and have lintian look at it
    /// (root, a Debian mirror).
    #[arg(long)]
    check: bool,
}

/// Runs the task.
pub(crate) fn run(args: &Args) -> Result<()> {
    let output = args.output.clone();
    let output = output.unwrap_or_else(|| root().join("target/package"));
    let made = make(&output)?;
    ui::step("package", &format!("{}", made.display()));
    if args.twice {
        check::twice()?;
    }
    if args.check {
        check::lint(&made)?;
        check::install(&made)?;
    }
    Ok(())
}

/// Makes the package in a folder, with its list of parts and the checksums beside it.
fn make(output: &Path) -> Result<PathBuf> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    let image = kernel::build()?;
    ui::step("package", "spindlectl");
    let remap = kernel::remap()?.join(" ");
    {
        let _flags = sh.push_env("RUSTFLAGS", remap);
        cmd!(
            sh,
            "cargo build --quiet --release --package spindlectl --package spindlectl-shim --target-dir target/package-build"
        )
        .quiet()
        .run()
        .context("spindlectl does not build; its errors stand above")?;
    }
    let built = root().join("target/package-build/release");
    let version = version(&sh)?;
    fs::create_dir_all(output).with_context(|| format!("create {}", output.display()))?;
    let parts = parts::all(&sh)?;
    let bom = output.join(format!("{NAME}_{version}.cdx.json"));
    fs::write(&bom, parts::bill(&parts, &version)?)?;

    let tree = Tree::new(root().join("target/package-tree"))?;
    tree.add(&image.path, "usr/lib/spindle/spindle.elf", 0o644)?;
    for (name, to, mode) in [
        ("spindlectl", "usr/sbin/spindlectl", 0o755),
        (
            "libspindle_shim.so",
            "usr/lib/spindle/libspindle_shim.so",
            0o644,
        ),
    ] {
        let small = built.join(format!("{name}.stripped"));
        let from = built.join(name);
        tools::strip(&sh, &from, &small)?;
        tree.add(&small, to, mode)?;
    }
    tree.add_generated(&sh)?;
    tree.add_texts(&parts::notices(&parts)?, &version)?;
    tree.add_bill(&bom)?;
    let epoch = cmd!(sh, "git log -1 --format=%ct").quiet().read()?;
    let package = output.join(format!("{NAME}_{version}_amd64.deb"));
    tree.pack(&sh, &package, &version, &epoch)?;
    sums(output, &[&package, &bom])?;
    Ok(package)
}

/// The package's version: the workspace's, with the commit behind it as long as nothing was released, which
/// is higher the later that was made.
fn version(sh: &Shell) -> Result<String> {
    let commit = cmd!(
        sh,
        "git log -1 --format=%cd.%h --date=format-local:%Y%m%d%H%M%S --abbrev=10"
    );
    let commit = commit
        .env("TZ", "UTC")
        .quiet()
        .read()
        .context("the package's version names the commit: there is no git")?;
    let changed = cmd!(sh, "git status --porcelain --untracked-files=no");
    let changed = !changed.quiet().read()?.is_empty();
    let dirty = if changed { "+dirty" } else { "" };
    Ok(format!("{}~git{commit}{dirty}", env!("CARGO_PKG_VERSION")))
}

/// Writes `SHA256SUMS` for the files.
fn sums(output: &Path, files: &[&Path]) -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(output);
    let names: Vec<_> = files.iter().filter_map(|file| file.file_name()).collect();
    let sums = cmd!(sh, "sha256sum {names...}").quiet().read()?;
    fs::write(output.join("SHA256SUMS"), sums + "\n")?;
    Ok(())
}
