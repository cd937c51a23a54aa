//! Seals and opens single records (RFC 8446 section 5.2): nonce from the sequence number, header as additional data, content type
//! behind the content. Counts, and says when the key must change.
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;

/// Bytes of a record's header.
pub const HEADER: usize = 5;
/// Most content of one record (RFC 8446 section 5.1).
pub const LARGEST: usize = 16 * 1024;
/// Bytes of the tag; the same for every cipher suite of TLS 1.3 that rustls has.
pub const TAG: usize = 16;
/// Most ciphertext of one record (RFC 8446 section 5.2).
const LARGEST_CIPHERTEXT: usize = LARGEST + 256;
/// Records under one key: the confidentiality limit of AES-GCM is 2^24.5 (RFC 8446 section 5.5).
pub const UPDATE_AFTER: u64 = 1 << 24;

/// Content types.
pub const ALERT: u8 = 21;
/// Handshake messages after the handshake.
pub const HANDSHAKE: u8 = 22;
/// Application data: also the outer type of every protected record.
pub const DATA: u8 = 23;

/// Why a record could not be opened. The peer is told by the alert of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not protected application data.
    #[error("unexpected record type {0}")]
    UnexpectedType(u8),
    /// Longer than a record may be.
    #[error("record of {0} bytes is too long")]
    TooLong(usize),
    /// The tag does not fit.
    #[error("record does not authenticate")]
    BadTag,
    /// Nothing but padding.
    #[error("record has no content type")]
    NoType,
    /// The sequence number would wrap.
    #[error("record sequence is exhausted")]
    Exhausted,
}

impl RecordError {
    /// The alert (RFC 8446 section 6).
    pub fn alert(self) -> u8 {
        match self {
            Self::UnexpectedType(_) | Self::NoType => 10,
            Self::BadTag => 20,
            Self::TooLong(_) => 22,
            Self::Exhausted => 80,
        }
    }
}

/// One direction's key, with its sequence number.
pub struct Cipher {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Cipher {
    /// From secrets that rustls gives out.
    pub fn new((sequence, secrets): (u64, &ConnectionTrafficSecrets)) -> Result<Self, rustls::Error> {
        let (algorithm, key, iv) = parts(secrets)?;
        let key = UnboundKey::new(algorithm, key).map_err(|_| rustls::Error::EncryptError)?;
        let iv = <[u8; 12]>::try_from(iv).map_err(|_| rustls::Error::EncryptError)?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    /// Records that this key has protected.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    fn nonce(&mut self) -> Result<Nonce, RecordError> {
        let mut nonce = self.iv;
        for (byte, mask) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= mask;
        }
        self.sequence = self.sequence.checked_add(1).ok_or(RecordError::Exhausted)?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    /// Seals one record into `out`, which must have room for `sealed(content.len())`, and returns its length. The content, at
    /// most `LARGEST`, is read where it lies.
    pub fn seal(&mut self, kind: u8, content: &[u8], out: &mut [u8]) -> Result<usize, RecordError> {
        let length = sealed(content.len());
        if content.len() > LARGEST || out.len() < length {
            return Err(RecordError::TooLong(content.len()));
        }
        let header = header((length - HEADER) as u16);
        let (place, rest) = out[..length].split_at_mut(HEADER);
        place.copy_from_slice(&header);
        let (text, tail) = rest.split_at_mut(content.len());
        let nonce = self.nonce()?;
        let sealed = self.key.seal_out_of_place_scatter(nonce, Aad::from(header), content, text, &[kind], tail);
        sealed.map_err(|_| RecordError::BadTag)?;
        Ok(length)
    }

    /// Opens a whole record in place: its content type, and where its content lies in `record`.
    pub fn open(&mut self, record: &mut [u8]) -> Result<(u8, std::ops::Range<usize>), RecordError> {
        let (header, body) = record.split_at_mut(HEADER);
        let header = <[u8; HEADER]>::try_from(&*header).map_err(|_| RecordError::NoType)?;
        let nonce = self.nonce()?;
        let inner = self.key.open_in_place(nonce, Aad::from(header), body).map_err(|_| RecordError::BadTag)?;
        let (kind, length) = strip(inner)?;
        Ok((kind, HEADER..HEADER + length))
    }

    /// Opens a whole record into `out`, which must have room for its ciphertext without the tag: its content type and length.
    pub fn open_into(&mut self, record: &[u8], out: &mut [u8]) -> Result<(u8, usize), RecordError> {
        let (header, body) = record.split_at(HEADER);
        let header = <[u8; HEADER]>::try_from(header).map_err(|_| RecordError::NoType)?;
        let (text, tag) = body.split_at(body.len().checked_sub(TAG).ok_or(RecordError::BadTag)?);
        let out = out.get_mut(..text.len()).ok_or(RecordError::TooLong(text.len()))?;
        let nonce = self.nonce()?;
        self.key.open_separate_gather(nonce, Aad::from(header), text, tag, out).map_err(|_| RecordError::BadTag)?;
        strip(out)
    }
}

/// The length of a record with this much content.
pub const fn sealed(content: usize) -> usize {
    HEADER + content + 1 + TAG
}

/// The header of a protected record.
fn header(length: u16) -> [u8; HEADER] {
    let [high, low] = length.to_be_bytes();
    [DATA, 3, 3, high, low]
}

/// The whole length of the record that starts here; `None`: the header is not complete.
pub fn record_length(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let [kind, _, _, high, low, ..] = *bytes else { return Ok(None) };
    if kind != DATA {
        return Err(RecordError::UnexpectedType(kind));
    }
    let body = usize::from(u16::from_be_bytes([high, low]));
    if body > LARGEST_CIPHERTEXT {
        return Err(RecordError::TooLong(body));
    }
    if body < TAG + 1 {
        return Err(RecordError::BadTag);
    }
    Ok(Some(HEADER + body))
}

/// Padding off; content type and length of the content.
fn strip(inner: &[u8]) -> Result<(u8, usize), RecordError> {
    let at = inner.iter().rposition(|byte| *byte != 0).ok_or(RecordError::NoType)?;
    if at > LARGEST {
        return Err(RecordError::TooLong(at));
    }
    Ok((inner[at], at))
}

type Parts<'a> = (&'static aws_lc_rs::aead::Algorithm, &'a [u8], &'a [u8]);

fn parts(secrets: &ConnectionTrafficSecrets) -> Result<Parts<'_>, rustls::Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => Ok((&AES_128_GCM, key.as_ref(), iv.as_ref())),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => Ok((&AES_256_GCM, key.as_ref(), iv.as_ref())),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((&CHACHA20_POLY1305, key.as_ref(), iv.as_ref())),
        _ => Err(rustls::Error::General("cipher suite is not one of TLS 1.3".into())),
    }
}

/// A value that names this connection and that only its two ends know: SHA-256 over both directions' first traffic keys. It takes
/// the place of an exporter value (RFC 8446 section 7.5), which rustls does not give for connections whose keys it hands out.
pub fn binding(
    client: &ConnectionTrafficSecrets,
    server: &ConnectionTrafficSecrets,
) -> Result<[u8; 32], rustls::Error> {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    digest.update(b"signet tunnel binding v1\0");
    for secrets in [client, server] {
        let (_, key, iv) = parts(secrets)?;
        digest.update(key);
        digest.update(iv);
    }
    let mut value = [0; 32];
    value.copy_from_slice(digest.finish().as_ref());
    Ok(value)
}
