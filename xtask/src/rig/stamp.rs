//! Stamps: what is cached says by what it was made, and a changed recipe makes it again.

use std::fs;
use std::path::Path;

/// Whether `folder` is there and was made by what `stamp` stands for.
pub(super) fn is_made(folder: &Path, stamp_file: &Path, stamp: &str) -> bool {
    folder.is_dir() && fs::read_to_string(stamp_file).is_ok_and(|made_by| made_by == stamp)
}

/// A fingerprint (64-bit FNV-1a) of what something is made by.
pub(super) fn stamp(parts: &[&str]) -> String {
    let hash = parts
        .iter()
        .flat_map(|part| part.bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use anyhow::Result;

    use super::*;

    #[test]
    fn a_stamp_without_its_folder_counts_for_nothing() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("spindle-stamp-{}", std::process::id()));
        let (root, stamp_file) = (dir.join("root"), dir.join("root.stamp"));
        fs::create_dir_all(&root)?;
        fs::write(&stamp_file, "a")?;
        assert!(is_made(&root, &stamp_file, "a") && !is_made(&root, &stamp_file, "b"));
        fs::remove_dir(&root)?;
        assert!(!is_made(&root, &stamp_file, "a"));
        fs::remove_dir_all(&dir)?;
        Ok(())
    }
}
