//! Options as text: whatever it says, saying it twice must mean the same.

use spindle_config::Config;

/// Runs the target.
///
/// # Panics
/// If something does not hold that must.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut config = Config::default();
    let mut complaints = Vec::new();
    config.set_all(&text, |error| complaints.push(error.to_string()));
    assert!(complaints.len() <= text.split_ascii_whitespace().count());
    let numbers = config.ram_disks.iter().map(|disk| disk.number);
    assert!(numbers.is_sorted_by(|a, b| a < b), "one disk a number");

    let (once, first) = (config.clone(), complaints.len());
    config.set_all(&text, |error| complaints.push(error.to_string()));
    assert_eq!(config, once);
    assert_eq!(complaints.len(), 2 * first);
}
