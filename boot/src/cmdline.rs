//! The command line as `key=value` words.

/// One word of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument<'a> {
    /// What stands before the first `=`, or the whole word.
    pub key: &'a str,
    /// What stands after it, without quotes; `None` if there is no `=`.
    pub value: Option<&'a str>,
}

/// Iterator over the words of a command line; see [`words`].
#[derive(Clone, Debug)]
pub struct Words<'a> {
    rest: &'a str,
}

/// Splits a command line at white space.
///
/// Double quotes keep white space inside a word: `key="two words"` and `"key=two words"` mean the
/// same. A quote that is never closed reaches to the end of the line; a quote that opens neither a
/// word nor a value is an ordinary character.
#[must_use]
pub fn words(line: &str) -> Words<'_> {
    Words { rest: line }
}

impl<'a> Iterator for Words<'a> {
    type Item = Argument<'a>;

    fn next(&mut self) -> Option<Argument<'a>> {
        let rest = self.rest.trim_start();
        if rest.is_empty() {
            self.rest = rest;
            return None;
        }
        if let Some(quoted) = rest.strip_prefix('"') {
            let (word, rest) = quoted.split_once('"').unwrap_or((quoted, ""));
            self.rest = rest;
            return Some(split(word));
        }
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        if let Some((key, value)) = rest.split_once('=')
            && key.len() < end
            && let Some(quoted) = value.strip_prefix('"')
        {
            let (value, rest) = quoted.split_once('"').unwrap_or((quoted, ""));
            self.rest = rest;
            return Some(Argument {
                key,
                value: Some(value),
            });
        }
        let (word, rest) = rest.split_at_checked(end).unwrap_or((rest, ""));
        self.rest = rest;
        Some(split(word))
    }
}

fn split(word: &str) -> Argument<'_> {
    let (key, value) = match word.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (word, None),
    };
    Argument { key, value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(line: &str) -> Vec<(&str, Option<&str>)> {
        words(line).map(|w| (w.key, w.value)).collect()
    }

    #[test]
    fn splits_keys_values_and_bare_words() {
        assert_eq!(
            pairs("  a=1\tquiet b= c=x=y\n"),
            [
                ("a", Some("1")),
                ("quiet", None),
                ("b", Some("")),
                ("c", Some("x=y"))
            ]
        );
        assert_eq!(pairs(""), []);
        assert_eq!(pairs("   "), []);
    }

    #[test]
    fn quotes_keep_white_space() {
        assert_eq!(
            pairs("a=\"one two\" \"b=three four\" c"),
            [
                ("a", Some("one two")),
                ("b", Some("three four")),
                ("c", None)
            ]
        );
        assert_eq!(
            pairs("a=\"open to the end"),
            [("a", Some("open to the end"))]
        );
        assert_eq!(pairs("a=x\"y b"), [("a", Some("x\"y")), ("b", None)]);
    }

    proptest! {
        #[test]
        fn any_line_ends_in_finitely_many_words(line in ".{0,200}") {
            prop_assert!(words(&line).count() <= line.len());
        }

        #[test]
        fn quoted_values_come_back_unchanged(values in prop::collection::vec("[^\"]{0,12}", 0..6)) {
            let line: String = values.iter().map(|v| format!("k=\"{v}\" ")).collect();
            let back: Vec<_> = words(&line).map(|w| w.value.unwrap_or("?").to_string()).collect();
            prop_assert_eq!(back, values);
        }
    }
}
