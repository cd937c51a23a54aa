//! A small reader of DER, for certificates that a peer sent. Total: every input gives a value or [`Bad`], nothing panics,
//! nothing recurses, nothing is allocated. It reads what `certificate` asks for, and knows no ASN.1 beyond that.
//!
//! Strict where DER is strict and a second reading could differ: lengths are definite and minimal, booleans are 0x00 or
//! 0xff, integers are minimal, nothing trails.

/// The input is not the DER that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bad;

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
/// `[0]` primitive, `[6]` primitive, `[0]` and `[3]` constructed.
pub(crate) const CONTEXT_0_PRIMITIVE: u8 = 0x80;
pub(crate) const CONTEXT_6_PRIMITIVE: u8 = 0x86;
pub(crate) const CONTEXT_0: u8 = 0xa0;
pub(crate) const CONTEXT_3: u8 = 0xa3;

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }
    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), Bad> {
        if self.0.is_empty() { Ok(()) } else { Err(Bad) }
    }
    fn take(&mut self, count: usize) -> Result<&'a [u8], Bad> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Bad)?;
        self.0 = rest;
        Ok(taken)
    }
    fn byte(&mut self) -> Result<u8, Bad> {
        let (&first, rest) = self.0.split_first().ok_or(Bad)?;
        self.0 = rest;
        Ok(first)
    }
    fn length(&mut self) -> Result<usize, Bad> {
        let first = self.byte()?;
        let (bytes, least) = match first {
            0..=0x7f => return Ok(usize::from(first)),
            0x81 => (1, 0x80),
            0x82 => (2, 0x100),
            // Longer than 65,535 bytes is longer than anything that is read here; 0x80 is the indefinite form.
            _ => return Err(Bad),
        };
        let length = self.take(bytes)?.iter().fold(0, |length, &b| length << 8 | usize::from(b));
        if length < least { Err(Bad) } else { Ok(length) }
    }
    /// The next element: its tag and its content. High tag numbers are refused.
    pub(crate) fn any(&mut self) -> Result<(u8, &'a [u8]), Bad> {
        let tag = self.byte()?;
        if tag & 0x1f == 0x1f {
            return Err(Bad);
        }
        let length = self.length()?;
        Ok((tag, self.take(length)?))
    }
    /// The content of the next element, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<&'a [u8], Bad> {
        let (found, content) = self.any()?;
        if found == tag { Ok(content) } else { Err(Bad) }
    }
    /// The content of the next element if it has this tag; otherwise nothing is read.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, Bad> {
        if self.0.first() == Some(&tag) { self.expect(tag).map(Some) } else { Ok(None) }
    }
    /// The next element, tag and length included, which must have this tag.
    pub(crate) fn expect_whole(&mut self, tag: u8) -> Result<&'a [u8], Bad> {
        let before = self.0;
        self.expect(tag)?;
        before.get(..before.len() - self.0.len()).ok_or(Bad)
    }
    /// The next element's content as a reader.
    pub(crate) fn enter(&mut self, tag: u8) -> Result<Reader<'a>, Bad> {
        self.expect(tag).map(Reader)
    }
    /// `BOOLEAN DEFAULT FALSE`. An encoded FALSE is tolerated: some issuers write it, and it says nothing else.
    pub(crate) fn boolean_or_false(&mut self) -> Result<bool, Bad> {
        match self.optional(BOOLEAN)? {
            None | Some([0x00]) => Ok(false),
            Some([0xff]) => Ok(true),
            Some(_) => Err(Bad),
        }
    }
}

/// The one element that `bytes` is, with nothing behind it.
pub(crate) fn only(bytes: &[u8], tag: u8) -> Result<&[u8], Bad> {
    let mut reader = Reader::new(bytes);
    let content = reader.expect(tag)?;
    reader.end()?;
    Ok(content)
}

/// A positive INTEGER's content without its sign byte; zero and negative numbers are refused.
pub(crate) fn positive(content: &[u8]) -> Result<&[u8], Bad> {
    match content {
        [0, rest @ ..] if rest.first().is_some_and(|b| b & 0x80 != 0) => Ok(rest),
        [first, ..] if (1..0x80).contains(first) => Ok(content),
        _ => Err(Bad),
    }
}

/// A BIT STRING of named bits, at most 16, first bit highest. Trailing zero bits must be left out (X.690 section 11.2.2).
pub(crate) fn named_bits(content: &[u8]) -> Result<u16, Bad> {
    let (bits, unused) = match *content {
        [unused, high] => (u16::from(high) << 8, u32::from(unused)),
        [unused, high, low] if low != 0 => (u16::from(high) << 8 | u16::from(low), u32::from(unused)),
        _ => return Err(Bad),
    };
    let last_byte = if content.len() == 2 { bits >> 8 } else { bits & 0xff };
    if unused < 8 && last_byte != 0 && last_byte.trailing_zeros() == unused { Ok(bits) } else { Err(Bad) }
}

/// Unix seconds of a UTCTime or GeneralizedTime in the only forms that RFC 5280 section 4.1.2.5 allows: to the second, in Z.
pub(crate) fn time(tag: u8, content: &[u8]) -> Result<u64, Bad> {
    let [pairs @ .., b'Z'] = content else { return Err(Bad) };
    let (year, pairs) = match tag {
        UTC_TIME => {
            let (year, rest) = pairs.split_at_checked(2).ok_or(Bad)?;
            let year = digits(year)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (century, rest) = pairs.split_at_checked(2).ok_or(Bad)?;
            let (year, rest) = rest.split_at_checked(2).ok_or(Bad)?;
            (digits(century)? * 100 + digits(year)?, rest)
        }
        _ => return Err(Bad),
    };
    let mut fields = [0; 5];
    if pairs.len() != 2 * fields.len() {
        return Err(Bad);
    }
    for (field, pair) in fields.iter_mut().zip(pairs.chunks(2)) {
        *field = digits(pair)?;
    }
    let [month, day, hour, minute, second] = fields;
    if year < 1970 || hour > 23 || minute > 59 || second > 59 || !(1..=days_in_month(year, month)?).contains(&day) {
        return Err(Bad);
    }
    Ok((days_since_epoch(year, month, day) * 24 + hour) * 3600 + minute * 60 + second)
}

/// Two decimal digits.
fn digits(pair: &[u8]) -> Result<u64, Bad> {
    match pair {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => Ok(u64::from(tens - b'0') * 10 + u64::from(ones - b'0')),
        _ => Err(Bad),
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_month(year: u64, month: u64) -> Result<u64, Bad> {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => Ok(31),
        4 | 6 | 9 | 11 => Ok(30),
        2 if is_leap(year) => Ok(29),
        2 => Ok(28),
        _ => Err(Bad),
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar that is not before it.
fn days_since_epoch(year: u64, month: u64, day: u64) -> u64 {
    const BEFORE_MONTH: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    // The leap days of all years before this one, less those before 1970 (which were 477).
    let last = year - 1;
    let leap_days = last / 4 - last / 100 + last / 400 - 477;
    let this_leap_day = u64::from(month > 2 && is_leap(year));
    let before = usize::try_from(month - 1).ok().and_then(|at| BEFORE_MONTH.get(at)).copied().unwrap_or_default();
    (year - 1970) * 365 + leap_days + before + this_leap_day + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_agree_with_date_of_coreutils() {
        for (tag, text, unix) in [
            (UTC_TIME, "700101000000Z", 0),
            (UTC_TIME, "000229120000Z", 951_825_600),
            (UTC_TIME, "261121203500Z", 1_795_293_300),
            (UTC_TIME, "491231235959Z", 2_524_607_999),
            (GENERALIZED_TIME, "20500101000000Z", 2_524_608_000),
            (GENERALIZED_TIME, "21000301000000Z", 4_107_542_400),
            (GENERALIZED_TIME, "99991231235959Z", 253_402_300_799),
        ] {
            assert_eq!(time(tag, text.as_bytes()), Ok(unix), "{text}");
        }
    }

    #[test]
    fn times_that_are_no_times_are_refused() {
        for (tag, text) in [
            (UTC_TIME, "690101000000Z"),
            (UTC_TIME, "250229000000Z"),
            (UTC_TIME, "251301000000Z"),
            (UTC_TIME, "250132000000Z"),
            (UTC_TIME, "250100000000Z"),
            (UTC_TIME, "250101240000Z"),
            (UTC_TIME, "250101006000Z"),
            (UTC_TIME, "2501010000Z"),
            (UTC_TIME, "250101000000+0100"),
            (UTC_TIME, "2501010000 0Z"),
            (GENERALIZED_TIME, "20250101000000.5Z"),
            (GENERALIZED_TIME, "250101000000Z"),
            (OID, "250101000000Z"),
            (UTC_TIME, ""),
        ] {
            assert_eq!(time(tag, text.as_bytes()), Err(Bad), "{text}");
        }
    }

    #[test]
    fn lengths_must_be_definite_and_minimal() {
        for bytes in
            [&[4, 0x80, 0, 0][..], &[4, 0x81, 1, 0], &[4, 0x82, 0, 0x80], &[4, 0x83, 0, 0, 1], &[4, 2, 0], &[4]]
        {
            assert_eq!(Reader::new(bytes).any(), Err(Bad), "{bytes:02x?}");
        }
        assert_eq!(Reader::new(&[4, 1, 7]).any(), Ok((4, &[7][..])));
    }

    #[test]
    fn named_bits_are_minimal() {
        assert_eq!(named_bits(&[7, 0x80]), Ok(0x8000));
        assert_eq!(named_bits(&[1, 0x06]), Ok(0x0600));
        assert_eq!(named_bits(&[7, 0x80, 0x80]), Ok(0x8080));
        for bad in [&[][..], &[0], &[0, 0x80], &[6, 0x80], &[8, 0x80], &[0, 0], &[7, 0x80, 0], &[7, 0x80, 0x80, 0x80]] {
            assert_eq!(named_bits(bad), Err(Bad), "{bad:02x?}");
        }
    }

    #[test]
    fn serials_are_positive_and_minimal() {
        assert_eq!(positive(&[1]), Ok(&[1][..]));
        assert_eq!(positive(&[0, 0x80]), Ok(&[0x80][..]));
        for bad in [&[][..], &[0], &[0x80], &[0, 1], &[0, 0], &[0xff]] {
            assert_eq!(positive(bad), Err(Bad), "{bad:02x?}");
        }
    }
}
