//! A small file tree cut out of unpacked Debian packages: chosen programs with the
//! libraries they load, chosen kernel modules with what they depend on.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

/// A tree that becomes an initramfs.
pub(super) struct Tree<'a> {
    sh: &'a Shell,
    packages: &'a Path,
    dir: PathBuf,
}

impl<'a> Tree<'a> {
    /// Starts an empty tree in `dir`, to be filled from `packages`.
    pub(super) fn create(sh: &'a Shell, packages: &'a Path, dir: &Path) -> Result<Self> {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir.join("usr/lib"))?;
        for folder in ["bin", "sbin", "lib", "lib64"] {
            fs::create_dir_all(dir.join("usr").join(folder))?;
            symlink(format!("usr/{folder}"), dir.join(folder))?;
        }
        for folder in ["proc", "sys", "dev", "run", "tmp", "etc", "mnt"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        Ok(Self {
            sh,
            packages,
            dir: dir.to_path_buf(),
        })
    }

    /// Where `path` of the tree is on the host.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path.trim_start_matches('/'))
    }

    /// Adds busybox and a link for each of its commands.
    pub(super) fn busybox(&self) -> Result<()> {
        self.programs(&["/usr/bin/busybox"])?;
        let (sh, packages) = (self.sh, self.packages);
        let commands = cmd!(sh, "chroot {packages} /usr/bin/busybox --list")
            .quiet()
            .read()?;
        for command in commands.lines().filter(|&command| command != "busybox") {
            symlink("busybox", self.path("/usr/bin").join(command))?;
        }
        Ok(())
    }

    /// Adds programs with their libraries; a program of the same name as one of busybox'
    /// commands takes its place.
    pub(super) fn programs(&self, programs: &[impl AsRef<str>]) -> Result<()> {
        let (sh, packages) = (self.sh, self.packages);
        let mut libraries = BTreeSet::from(["/lib64/ld-linux-x86-64.so.2".to_string()]);
        for program in programs {
            let program = program.as_ref();
            let loaded = cmd!(
                sh,
                "chroot {packages} /lib64/ld-linux-x86-64.so.2 --list {program}"
            )
            .quiet()
            .read()
            .with_context(|| format!("which libraries does {program} need?"))?;
            for word in loaded
                .split_whitespace()
                .filter(|word| word.starts_with('/'))
            {
                libraries.insert(word.to_string());
            }
            self.copy(program)?;
        }
        for library in &libraries {
            self.copy(library)?;
        }
        Ok(())
    }

    /// Adds files or whole folders as they are.
    pub(super) fn files(&self, paths: &[impl AsRef<str>]) -> Result<()> {
        let sh = self.sh;
        for path in paths {
            let (from, to) = (
                self.packages.join(path.as_ref().trim_start_matches('/')),
                self.path(path.as_ref()),
            );
            let parent = to.parent().context("a file has a folder")?;
            fs::create_dir_all(parent)?;
            cmd!(sh, "cp -a {from} {parent}").quiet().run()?;
        }
        Ok(())
    }

    /// Adds a symbolic link.
    pub(super) fn link(&self, target: &str, path: &str) -> Result<()> {
        symlink(target, self.path(path)).with_context(|| format!("link {path}"))
    }

    /// Adds kernel modules, with the modules they depend on, uncompressed.
    pub(super) fn modules(&self, release: &str, modules: &[&str]) -> Result<()> {
        let (sh, packages, dir) = (self.sh, self.packages, &self.dir);
        let source = packages.join("usr/lib/modules").join(release);
        let target = dir.join("usr/lib/modules").join(release);
        for module in modules {
            let plan = cmd!(
                sh,
                "modprobe -d {packages} -S {release} --show-depends {module}"
            )
            .quiet()
            .read()
            .with_context(|| format!("what does the kernel module {module} need?"))?;
            for file in plan.lines().filter_map(|line| line.strip_prefix("insmod ")) {
                let inside = format!("lib/modules/{release}/");
                let Some((_, relative)) = file.trim().split_once(&inside) else {
                    bail!("modprobe names a file outside of the tree: {file}");
                };
                let from = source.join(relative);
                let to = target.join(relative.trim_end_matches(".xz"));
                fs::create_dir_all(to.parent().context("a module has a folder")?)?;
                if relative.ends_with(".xz") {
                    cmd!(sh, "sh -c 'xz -dc \"$1\" > \"$2\"' unpack {from} {to}")
                        .quiet()
                        .run()?;
                } else {
                    fs::copy(&from, &to)?;
                }
            }
        }
        for list in [
            "modules.builtin",
            "modules.order",
            "modules.builtin.modinfo",
        ] {
            fs::copy(source.join(list), target.join(list))?;
        }
        cmd!(sh, "depmod -b {dir} {release}").quiet().run()?;
        Ok(())
    }

    /// Packs the tree into a `newc` archive and removes it.
    pub(super) fn pack(self, archive: &Path) -> Result<()> {
        let (sh, dir) = (self.sh, &self.dir);
        cmd!(
            sh,
            "sh -c 'cd \"$1\" && find . | cpio -o -H newc --quiet > \"$2\"' pack {dir} {archive}"
        )
        .quiet()
        .run()
        .context("pack an initramfs")?;
        fs::remove_dir_all(dir)?;
        Ok(())
    }

    /// Copies one file out of the packages, through links, into the merged `/usr`.
    fn copy(&self, path: &str) -> Result<()> {
        let from = self.packages.join(path.trim_start_matches('/'));
        let merged = match path.split('/').nth(1) {
            Some("bin" | "sbin" | "lib" | "lib64") => format!("/usr{path}"),
            _ => path.to_string(),
        };
        let to = self.path(&merged);
        fs::create_dir_all(to.parent().context("a file has a folder")?)?;
        let _ = fs::remove_file(&to);
        fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
        Ok(())
    }
}
