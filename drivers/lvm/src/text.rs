//! The grammar of metadata text: `key = value`, `section { }`, numbers, "strings", [lists], comments.
//!
//! A text is gone through in place, section by section; nothing is built of it. What is inside a
//! section that is of no interest is passed over by counting braces.

use crate::Reason;

const UNENDED: Reason = "its metadata text ends too early";
const GRAMMAR: Reason = "its metadata text breaks the grammar";

/// What stands next in a text.
enum Token<'a> {
    /// A key, a section's name or a number.
    Word(&'a [u8]),
    /// What is between quotation marks, with backslashes as they stand.
    Quoted(&'a [u8]),
    /// One of `= { } [ ] ,`.
    Sign(u8),
}

/// What stands in a section, in its order.
pub(crate) enum Item<'a> {
    Value(&'a [u8], Value<'a>),
    Section(&'a [u8], Body<'a>),
}

/// A value. The strings are without their quotation marks.
#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    Number(u64),
    Quoted(&'a [u8]),
    List(List<'a>),
    /// A word that is no number, or one that is negative or has a fraction.
    Other,
}

/// The inside of a section, or a whole text.
#[derive(Clone, Copy)]
pub(crate) struct Body<'a>(pub(crate) &'a [u8]);

/// The inside of a list.
#[derive(Clone, Copy)]
pub(crate) struct List<'a>(Body<'a>);

impl<'a> Value<'a> {
    pub(crate) fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            _ => None,
        }
    }

    pub(crate) fn quoted(self) -> Option<&'a [u8]> {
        match self {
            Self::Quoted(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn list(self) -> Option<List<'a>> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }
}

impl<'a> Body<'a> {
    /// The next item, if there is one more.
    pub(crate) fn item(&mut self) -> Result<Option<Item<'a>>, Reason> {
        let key = match self.token()? {
            None => return Ok(None),
            Some(Token::Word(key) | Token::Quoted(key)) => key,
            Some(Token::Sign(_)) => return Err(GRAMMAR),
        };
        match self.token()?.ok_or(UNENDED)? {
            Token::Sign(b'{') => Ok(Some(Item::Section(key, self.inside(b'{', b'}')?))),
            Token::Sign(b'=') => {
                let token = self.token()?.ok_or(UNENDED)?;
                Ok(Some(Item::Value(key, self.value(token)?)))
            }
            _ => Err(GRAMMAR),
        }
    }

    fn value(&mut self, first: Token<'a>) -> Result<Value<'a>, Reason> {
        match first {
            Token::Quoted(text) => Ok(Value::Quoted(text)),
            Token::Word(word) => Ok(number(word).map_or(Value::Other, Value::Number)),
            Token::Sign(b'[') => Ok(Value::List(List(self.inside(b'[', b']')?))),
            Token::Sign(_) => Err(GRAMMAR),
        }
    }

    /// What stands from here, after `open`, to the `close` that belongs to it, which is passed.
    fn inside(&mut self, open: u8, close: u8) -> Result<Self, Reason> {
        let from = self.0;
        let mut depth = 1_usize;
        loop {
            let left = self.0.len();
            match self.token()?.ok_or(UNENDED)? {
                Token::Sign(sign) if sign == open => depth += 1,
                Token::Sign(sign) if sign == close => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Ok(Self(&from[..from.len() - left]));
            }
        }
    }

    /// Passes the sign that stands next, with what is blank before it.
    pub(crate) fn pass_sign(&mut self) -> Result<(), Reason> {
        match self.token()? {
            Some(Token::Sign(_)) => Ok(()),
            _ => Err(GRAMMAR),
        }
    }

    fn token(&mut self) -> Result<Option<Token<'a>>, Reason> {
        self.skip_blanks();
        let Some(&first) = self.0.first() else {
            return Ok(None);
        };
        if matches!(first, b'=' | b'{' | b'}' | b'[' | b']' | b',') {
            self.0 = &self.0[1..];
            return Ok(Some(Token::Sign(first)));
        }
        if first == b'"' {
            return self.quoted().map(Some);
        }
        let is_word = |byte: &u8| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'+' | b'/')
        };
        let length = self.0.iter().take_while(|byte| is_word(byte)).count();
        if length == 0 {
            return Err(GRAMMAR);
        }
        let (word, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(Some(Token::Word(word)))
    }

    fn quoted(&mut self) -> Result<Token<'a>, Reason> {
        let text = &self.0[1..];
        let mut escaped = false;
        for (at, byte) in text.iter().enumerate() {
            if *byte == b'"' && !escaped {
                self.0 = &text[at + 1..];
                return Ok(Token::Quoted(&text[..at]));
            }
            escaped = *byte == b'\\' && !escaped;
        }
        Err(UNENDED)
    }

    /// Passes blanks, ends of lines, and comments to the ends of theirs.
    fn skip_blanks(&mut self) {
        let mut comment = false;
        let is_blank = |byte: &&u8| {
            comment = **byte != b'\n' && (comment || **byte == b'#');
            comment || byte.is_ascii_whitespace()
        };
        let count = self.0.iter().take_while(is_blank).count();
        self.0 = &self.0[count..];
    }
}

/// The values of a list; it ends early where the grammar is broken.
impl<'a> Iterator for List<'a> {
    type Item = Result<Value<'a>, Reason>;

    fn next(&mut self) -> Option<Self::Item> {
        let value = match self.0.token() {
            Ok(None) => return None,
            Ok(Some(Token::Word(word))) => Ok(number(word).map_or(Value::Other, Value::Number)),
            Ok(Some(Token::Quoted(text))) => Ok(Value::Quoted(text)),
            Ok(Some(Token::Sign(_))) => Err(GRAMMAR),
            Err(reason) => Err(reason),
        };
        let value = match self.0.token() {
            Ok(None | Some(Token::Sign(b','))) => value,
            Ok(_) => Err(GRAMMAR),
            Err(reason) => Err(reason),
        };
        if value.is_err() {
            self.0 = Body(&[]);
        }
        Some(value)
    }
}

fn number(word: &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for byte in word {
        let digit = byte.is_ascii_digit().then(|| byte - b'0')?;
        number = number.checked_mul(10)?.checked_add(digit.into())?;
    }
    (!word.is_empty()).then_some(number)
}
