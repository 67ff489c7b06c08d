//! `build`: compiles the kernel for the bare machine and strips it into the bootable image.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::{root, tools, ui};

/// What the kernel is compiled for.
pub(crate) const TARGET: &str = "x86_64-unknown-none";

/// The largest image that is let through, in bytes.
pub(crate) const SIZE_LIMIT: u64 = 748 * 1024;

/// A built image.
pub(crate) struct Image {
    /// The stripped ELF that Xen boots.
    pub(crate) path: PathBuf,
    /// Its size in bytes.
    pub(crate) size: u64,
}

/// Builds `target/spindle.elf` (and `target/spindle.debug.elf`, the same with symbols).
pub(crate) fn build() -> Result<Image> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    install_target(&sh)?;
    ui::step("build", "kernel for x86_64-unknown-none");
    // Joined with those in .cargo/config.toml.
    let remap = serde_json::to_string(&remap()?)?;
    let remap = format!("target.{TARGET}.rustflags={remap}");
    cmd!(
        sh,
        "cargo build --quiet --release -p spindle --target {TARGET} --config {remap}"
    )
    .quiet()
    .run()
    .context("the kernel does not build; its errors stand above")?;

    let built = build_dir().join(TARGET).join("release/spindle");
    let debug = root().join("target/spindle.debug.elf");
    let path = root().join("target/spindle.elf");
    fs::create_dir_all(root().join("target"))?;
    fs::copy(&built, &debug).with_context(|| format!("copy {}", built.display()))?;
    tools::strip(&sh, &debug, &path)?;

    let size = fs::metadata(&path)?.len();
    ui::step(
        "build",
        &format!(
            "target/spindle.elf: {:.1} KiB (limit {} KiB)",
            size as f64 / 1024.0,
            SIZE_LIMIT / 1024
        ),
    );
    ensure!(
        size <= SIZE_LIMIT,
        "the image is {size} bytes, more than the {SIZE_LIMIT} allowed; `nm -S --size-sort {}` shows why",
        debug.display()
    );
    Ok(Image { path, size })
}

/// The compiler's options that keep the folders of this machine out of what is built, so that the same
/// sources give the same bytes everywhere.
pub(crate) fn remap() -> Result<Vec<String>> {
    let home = tools::cargo_home().context("neither CARGO_HOME nor HOME is set")?;
    let folders = [(home, "/cargo"), (root(), "/spindle")];
    let option =
        |(from, to): (PathBuf, &str)| format!("--remap-path-prefix={}={to}", from.display());
    Ok(folders.into_iter().map(option).collect())
}

/// Makes sure that the compiler has the bare-metal target.
pub(crate) fn install_target(sh: &Shell) -> Result<()> {
    let sysroot = cmd!(sh, "rustc --print sysroot").quiet().read()?;
    if sh.path_exists(format!("{sysroot}/lib/rustlib/{TARGET}")) {
        return Ok(());
    }
    ui::step("build", &format!("rustup target add {TARGET}"));
    cmd!(sh, "rustup target add {TARGET}")
        .quiet()
        .run()
        .context("the compiler lacks the bare-metal target; install it by hand")
}

/// Where cargo puts what it builds.
pub(crate) fn build_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
