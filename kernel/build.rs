//! Links the kernel by `linker.ld` and stamps it with the revision it was built from.

use std::path::Path;
use std::process::Command;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    println!(
        "cargo:rustc-link-arg-bins=-T{}",
        root.join("linker.ld").display()
    );
    println!("cargo:rerun-if-changed=../linker.ld");
    for path in [".git/HEAD", ".git/index", "kernel", "drivers", "boot"] {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    println!("cargo:rustc-env=SPINDLE_GIT={}", revision(&root));
}

/// The short revision, `-dirty` if there are changes on top, or `unknown` without git.
fn revision(root: &Path) -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(root)
            .args(args)
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_string())
    };
    let Some(mut revision) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "unknown".to_string();
    };
    if git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|s| !s.is_empty()) {
        revision.push_str("-dirty");
    }
    revision
}
