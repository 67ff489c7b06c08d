//! What the rig boots, made of Debian's packages and cached: Xen, a Linux kernel, dom0's
//! initramfs with the Xen tools and their QEMU, and in it the initramfs of the guests.
//!
//! Two things are cached, each with a stamp that says what it was made by: the unpacked
//! packages, and the images cut out of them. A changed recipe makes them again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use super::emulator::Emulator;
use super::stamp::{is_made, stamp};
use super::tree::Tree;
use super::{Suite, debian, packages};
use crate::ui::{self, Progress};

/// The Debian packages that the images are cut out of; `{xen}` is the Xen release.
const PACKAGES: &str = "busybox,kmod,libc-bin,util-linux,e2fsprogs,fio,nvme-cli,lvm2,\
                        xen-utils-{xen},xen-utils-common,xenstore-utils,xen-hypervisor-{xen}-amd64,qemu-system-xen,\
                        seabios,linux-image-amd64";

/// Kernel modules for dom0: Xen's device files, passthrough, what Linux' own backend needs, and what
/// dom0 needs to use a disk itself, with a file system that GRUB can read.
const DOM0_MODULES: &[&str] = &[
    "xen-gntdev",
    "xen-gntalloc",
    "xen-evtchn",
    "xen-privcmd",
    "xenfs",
    "xen-pciback",
    "xen-blkback",
    "nvme",
    "dm-mod",
    "dm-snapshot",
    "xen-blkfront",
    "vfat",
    "nls_cp437",
    "nls_ascii",
];

/// Kernel modules for the guests.
const GUEST_MODULES: &[&str] = &["xen-blkfront", "ext4", "crc32c_generic"];

/// Kernel modules for the Linux driver domain that Spindle is compared to.
const LINUX_MODULES: &[&str] = &["nvme", "xen-blkback"];

/// Files that `xl` and QEMU look for by name.
const DOM0_FILES: &[&str] = &["/etc/xen", "/usr/share/qemu/keymaps", "/usr/share/seabios"];

/// What scripts speak to xenstore with.
const XENSTORE_TOOLS: [&str; 8] = [
    "xenstore-read",
    "xenstore-write",
    "xenstore-ls",
    "xenstore-list",
    "xenstore-rm",
    "xenstore-exists",
    "xenstore-watch",
    "xenstore-chmod",
];

/// ROMs that QEMU loads into every domain it emulates a machine for.
const QEMU_ROMS: &[&str] = &[
    "kvmvapic.bin",
    "linuxboot.bin",
    "linuxboot_dma.bin",
    "multiboot.bin",
    "pvh.bin",
];

/// The images of one suite.
pub(crate) struct Images {
    /// The hypervisor, as QEMU's multiboot loader wants it.
    pub(crate) xen: PathBuf,
    /// The Linux kernel of dom0 (and, inside `dom0`, of the guests).
    pub(crate) linux: PathBuf,
    /// dom0's initramfs, uncompressed; the payload of a run is appended.
    pub(crate) dom0: PathBuf,
    /// What they are booted by.
    pub(crate) emulator: Emulator,
}

/// Makes the images of `suite`, or takes those made before.
pub(crate) fn prepare(suite: Suite) -> Result<Images> {
    let sh = Shell::new()?;
    packages::install_missing(&sh)?;
    let dir = suite.dir().join("images");
    let images = Images {
        xen: dir.join("xen"),
        linux: dir.join("vmlinuz"),
        dom0: dir.join("dom0.cpio"),
        emulator: Emulator::prepare(&sh)?,
    };
    let packages = PACKAGES.replace("{xen}", suite.xen()).replace(' ', "");
    let stamp = stamp(&[
        &packages,
        include_str!("images.rs"),
        include_str!("debian.rs"),
        include_str!("tree.rs"),
    ]);
    if is_made(&dir, &dir.join("stamp"), &stamp) {
        return Ok(images);
    }
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let root = unpack(&sh, suite, &packages)?;
    cut(&sh, suite, &root, &dir, &images).with_context(|| {
        format!(
            "make the rig's images; remove {} and try again",
            root.display()
        )
    })?;
    fs::write(dir.join("stamp"), stamp)?;
    let size = fs::metadata(&images.dom0)?.len() >> 20;
    ui::step(
        "rig",
        &format!("images for {} are ready (dom0: {size} MiB)", suite.name()),
    );
    Ok(images)
}

/// Downloads and unpacks the packages.
fn unpack(sh: &Shell, suite: Suite, packages: &str) -> Result<PathBuf> {
    let root = suite.dir().join("root");
    let stamp_file = suite.dir().join("root.stamp");
    let stamp = stamp(&[packages]);
    if is_made(&root, &stamp_file, &stamp) {
        return Ok(root);
    }
    // What is unpacked half-way must not pass for what the stamp tells of.
    let _ = fs::remove_file(&stamp_file);
    let name = suite.name();
    let _progress = Progress::start(
        "rig",
        &format!("fetching Debian's packages for {name} (1 min)"),
    );
    debian::unpack(sh, name, packages, &root)?;
    fs::write(stamp_file, stamp)?;
    Ok(root)
}

/// Cuts the images out of the unpacked packages.
fn cut(sh: &Shell, suite: Suite, root: &Path, dir: &Path, images: &Images) -> Result<()> {
    let _progress = Progress::start("rig", &format!("making images for {}", suite.name()));
    let xen = debian::find(&root.join("boot"), |name| {
        name.starts_with("xen-") && name.ends_with(".gz")
    })?;
    let out = images.xen.display().to_string();
    cmd!(sh, "sh -c 'zcat \"$1\" > \"$2\"' unzip {xen} {out}")
        .quiet()
        .run()?;
    let (linux, release) = debian::kernel(sh, root)?;
    fs::copy(linux, &images.linux)?;

    let guest = Tree::create(sh, root, &dir.join("guest"))?;
    guest.busybox()?;
    guest.programs(&["/usr/sbin/mke2fs"])?;
    guest.files(&["/etc/mke2fs.conf"])?;
    guest.modules(&release, GUEST_MODULES)?;
    let fio = Tree::create(sh, root, &dir.join("fio"))?;
    fio.programs(&["/usr/bin/fio"])?;

    let linux = Tree::create(sh, root, &dir.join("driver-domain"))?;
    linux.busybox()?;
    linux.programs(&XENSTORE_TOOLS.map(|tool| format!("/usr/bin/{tool}")))?;
    linux.modules(&release, LINUX_MODULES)?;

    let dom0 = Tree::create(sh, root, &dir.join("dom0"))?;
    dom0.busybox()?;
    let bin = format!("/usr/lib/xen-{}/bin", suite.xen());
    let tools = [
        "xl",
        "xenstored",
        "xenconsoled",
        "xenconsole",
        "xen-init-dom0",
        "xentop",
        "libxl-save-helper",
    ];
    let tools: Vec<String> = tools.iter().map(|tool| format!("{bin}/{tool}")).collect();
    dom0.programs(&tools)?;
    dom0.programs(&XENSTORE_TOOLS.map(|tool| format!("/usr/bin/{tool}")))?;
    dom0.programs(&[
        "/usr/bin/flock",
        "/usr/sbin/nvme",
        "/usr/sbin/lvm",
        "/usr/libexec/xen-qemu-system-i386",
    ])?;
    dom0.files(DOM0_FILES)?;
    dom0.files(
        &QEMU_ROMS
            .iter()
            .map(|rom| format!("/usr/share/qemu/{rom}"))
            .collect::<Vec<_>>(),
    )?;
    dom0.files(&[format!("/usr/lib/xen-{}/boot/hvmloader", suite.xen())])?;
    dom0.modules(&release, DOM0_MODULES)?;
    dom0.link(&bin, "/usr/lib/xen-bin")?;
    fs::create_dir_all(dom0.path("/images"))?;
    fs::copy(&images.linux, dom0.path("/images/vmlinuz"))?;
    guest.pack(&dom0.path("/images/guest.cpio"))?;
    fio.pack(&dom0.path("/images/fio.cpio"))?;
    linux.pack(&dom0.path("/images/driver-domain.cpio"))?;
    dom0.pack(&images.dom0)
}
