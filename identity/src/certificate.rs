//! One X.509 certificate, split into the fields that a profile asks about. Called by `verify::leaf` and `verify::authority`
//! with bytes that a peer sent; borrows from them and allocates nothing.
//!
//! webpki parses the same bytes for the path. Two parsers must not see two certificates, so this one is strict: version 3
//! alone, no unique identifiers, no duplicate extension, no critical extension that is not understood here.
use crate::der::{self, Bad, Reader};
use crate::profile::{MAX_CERTIFICATE, MAX_EXTENSIONS, UID_EXTENSION_DER};
use crate::rejection::{At, Rejection, oid_text};

/// The fields of a certificate, as they stand in it.
#[derive(Debug)]
pub(crate) struct Certificate<'a> {
    /// Which certificate of the chain it is, for rejections.
    pub(crate) at: At,
    /// Without sign byte.
    pub(crate) serial: &'a [u8],
    /// Content of the Name.
    pub(crate) issuer: &'a [u8],
    /// Content of the Name.
    pub(crate) subject: &'a [u8],
    /// Unix seconds.
    pub(crate) not_before: u64,
    /// Unix seconds.
    pub(crate) not_after: u64,
    /// SubjectPublicKeyInfo with tag and length.
    pub(crate) spki: &'a [u8],
    pub(crate) subject_key: Option<Extension<'a>>,
    pub(crate) key_usage: Option<Extension<'a>>,
    pub(crate) subject_alt_name: Option<Extension<'a>>,
    pub(crate) basic_constraints: Option<Extension<'a>>,
    pub(crate) name_constraints: Option<Extension<'a>>,
    pub(crate) authority_key: Option<Extension<'a>>,
    pub(crate) extended_key_usage: Option<Extension<'a>>,
    pub(crate) uid: Option<Extension<'a>>,
}

/// An extension's criticality and the content of its OCTET STRING.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extension<'a> {
    pub(crate) critical: bool,
    pub(crate) value: &'a [u8],
}

/// basicConstraints: whether it is a CA, and its path length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BasicConstraints {
    pub(crate) ca: bool,
    pub(crate) path_length: Option<u8>,
}

impl<'a> Certificate<'a> {
    /// Splits a certificate.
    pub(crate) fn read(der: &'a [u8], at: At) -> Result<Self, Rejection> {
        if der.len() > MAX_CERTIFICATE {
            return Err(Rejection::TooLarge { at, bytes: der.len() });
        }
        let malformed = |field| move |Bad| Rejection::Malformed { at, field };
        let mut outer = Reader::new(der::only(der, der::SEQUENCE).map_err(malformed("certificate"))?);
        let mut tbs = outer.enter(der::SEQUENCE).map_err(malformed("tbsCertificate"))?;
        outer.expect(der::SEQUENCE).map_err(malformed("signatureAlgorithm"))?;
        outer.expect(der::BIT_STRING).map_err(malformed("signatureValue"))?;
        outer.end().map_err(malformed("certificate"))?;

        let version =
            tbs.expect(der::CONTEXT_0).and_then(|v| der::only(v, der::INTEGER)).map_err(malformed("version"))?;
        if version != [2] {
            return Err(Rejection::Malformed { at, field: "version" });
        }
        let serial = tbs.expect(der::INTEGER).and_then(der::positive).map_err(malformed("serialNumber"))?;
        if serial.len() > 20 {
            return Err(Rejection::Malformed { at, field: "serialNumber" });
        }
        tbs.expect(der::SEQUENCE).map_err(malformed("signature"))?;
        let issuer = tbs.expect(der::SEQUENCE).map_err(malformed("issuer"))?;
        let (not_before, not_after) =
            tbs.enter(der::SEQUENCE).and_then(read_validity).map_err(malformed("validity"))?;
        let subject = tbs.expect(der::SEQUENCE).map_err(malformed("subject"))?;
        let spki = tbs.expect_whole(der::SEQUENCE).map_err(malformed("subjectPublicKeyInfo"))?;
        let extensions = tbs.optional(der::CONTEXT_3).map_err(malformed("extensions"))?;
        tbs.end().map_err(malformed("tbsCertificate"))?;

        let mut certificate = Self {
            at,
            serial,
            issuer,
            subject,
            not_before,
            not_after,
            spki,
            subject_key: None,
            key_usage: None,
            subject_alt_name: None,
            basic_constraints: None,
            name_constraints: None,
            authority_key: None,
            extended_key_usage: None,
            uid: None,
        };
        if let Some(extensions) = extensions {
            let list = der::only(extensions, der::SEQUENCE).map_err(malformed("extensions"))?;
            certificate.read_extensions(Reader::new(list))?;
        }
        Ok(certificate)
    }

    fn read_extensions(&mut self, mut list: Reader<'a>) -> Result<(), Rejection> {
        let at = self.at;
        let mut seen: [&[u8]; MAX_EXTENSIONS] = [&[]; MAX_EXTENSIONS];
        let mut free = seen.iter_mut();
        while !list.is_empty() {
            let (oid, extension) =
                read_extension(&mut list).map_err(|Bad| Rejection::Malformed { at, field: "extensions" })?;
            let slot = free.next().ok_or(Rejection::TooManyExtensions { at })?;
            *slot = oid;
            self.keep(oid, extension)?;
        }
        // The few extensions that Signet reads are caught in `keep`; the rest is compared here, at most 24 by 24.
        let left = free.len();
        let used = seen.get(..MAX_EXTENSIONS - left).unwrap_or_default();
        for (index, oid) in used.iter().enumerate() {
            if used.iter().take(index).any(|earlier| earlier == oid) {
                return Err(Rejection::DuplicateExtension { at, oid: oid_text(oid) });
            }
        }
        Ok(())
    }

    fn keep(&mut self, oid: &[u8], extension: Extension<'a>) -> Result<(), Rejection> {
        let at = self.at;
        // Arc 2.5.29 (id-ce) is 0x55 0x1d.
        let slot = match oid {
            [0x55, 0x1d, 14] => &mut self.subject_key,
            [0x55, 0x1d, 15] => &mut self.key_usage,
            [0x55, 0x1d, 17] => &mut self.subject_alt_name,
            [0x55, 0x1d, 19] => &mut self.basic_constraints,
            // Understood by webpki, which applies it to what lies below a CA; nothing lies below a leaf.
            [0x55, 0x1d, 30] if at != At::Leaf => &mut self.name_constraints,
            [0x55, 0x1d, 35] => &mut self.authority_key,
            [0x55, 0x1d, 37] => &mut self.extended_key_usage,
            _ if oid == UID_EXTENSION_DER => &mut self.uid,
            _ if extension.critical => {
                return Err(Rejection::UnknownCriticalExtension { at, oid: oid_text(oid) });
            }
            _ => return Ok(()),
        };
        if slot.replace(extension).is_some() {
            return Err(Rejection::DuplicateExtension { at, oid: oid_text(oid) });
        }
        Ok(())
    }

    /// Subject key identifier; must be there.
    pub(crate) fn subject_key(&self) -> Result<&'a [u8], Rejection> {
        let at = self.at;
        let extension = self.subject_key.ok_or(Rejection::SubjectKeyMissing { at })?;
        let value = extension.not_critical(at, "subjectKeyIdentifier")?;
        der::only(value, der::OCTET_STRING)
            .ok()
            .filter(|id| (1..=64).contains(&id.len()))
            .ok_or(Rejection::Malformed { at, field: "subjectKeyIdentifier" })
    }

    /// Authority key identifier, if there.
    pub(crate) fn authority_key(&self) -> Result<Option<&'a [u8]>, Rejection> {
        let at = self.at;
        let Some(extension) = self.authority_key else { return Ok(None) };
        let value = extension.not_critical(at, "authorityKeyIdentifier")?;
        // Behind the identifier may follow the issuer's name and serial, which say nothing that the path does not.
        der::only(value, der::SEQUENCE)
            .and_then(|content| Reader::new(content).expect(der::CONTEXT_0_PRIMITIVE))
            .ok()
            .filter(|id| (1..=64).contains(&id.len()))
            .map(Some)
            .ok_or(Rejection::Malformed { at, field: "authorityKeyIdentifier" })
    }

    /// The bits of keyUsage, which must be there and critical (L5, C5).
    pub(crate) fn key_usage(&self) -> Result<u16, Rejection> {
        let at = self.at;
        let extension = self.key_usage.ok_or(Rejection::KeyUsageMissing { at })?;
        if !extension.critical {
            return Err(Rejection::KeyUsageNotCritical { at });
        }
        der::only(extension.value, der::BIT_STRING)
            .and_then(der::named_bits)
            .map_err(|Bad| Rejection::Malformed { at, field: "keyUsage" })
    }

    /// basicConstraints, which must be there.
    pub(crate) fn basic_constraints(&self) -> Result<BasicConstraints, Rejection> {
        let at = self.at;
        let extension = self.basic_constraints.ok_or(Rejection::BasicConstraintsMissing { at })?;
        let read = || {
            let mut content = Reader::new(der::only(extension.value, der::SEQUENCE)?);
            let ca = content.boolean_or_false()?;
            let path_length = match content.optional(der::INTEGER)? {
                None => None,
                Some(&[length]) if length < 0x80 => Some(length),
                Some(_) => return Err(Bad),
            };
            content.end()?;
            Ok(BasicConstraints { ca, path_length })
        };
        read().map_err(|Bad| Rejection::Malformed { at, field: "basicConstraints" })
    }

    /// The first URI of subjectAltName and how many there are.
    pub(crate) fn uris(&self) -> Result<(Option<&'a [u8]>, usize), Rejection> {
        let Some(extension) = self.subject_alt_name else { return Ok((None, 0)) };
        let read = || {
            let mut names = Reader::new(der::only(extension.value, der::SEQUENCE)?);
            let (mut first, mut count) = (None, 0);
            while !names.is_empty() {
                match names.any()? {
                    (der::CONTEXT_6_PRIMITIVE, uri) => {
                        first = first.or(Some(uri));
                        count += 1;
                    }
                    // Other names may stand beside it in any number (L1); they are context-specific or it is no GeneralName.
                    (tag, _) if tag & 0xc0 == 0x80 => {}
                    _ => return Err(Bad),
                }
            }
            Ok((first, count))
        };
        read().map_err(|Bad| Rejection::Malformed { at: self.at, field: "subjectAltName" })
    }
}

impl<'a> Extension<'a> {
    /// The value of an extension that RFC 5280 or the profile wants not critical; webpki refuses it otherwise.
    pub(crate) fn not_critical(self, at: At, field: &'static str) -> Result<&'a [u8], Rejection> {
        if self.critical { Err(Rejection::MustNotBeCritical { at, field }) } else { Ok(self.value) }
    }
}

fn read_validity(mut validity: Reader<'_>) -> Result<(u64, u64), Bad> {
    let (tag, content) = validity.any()?;
    let not_before = der::time(tag, content)?;
    let (tag, content) = validity.any()?;
    let not_after = der::time(tag, content)?;
    validity.end()?;
    if not_before <= not_after { Ok((not_before, not_after)) } else { Err(Bad) }
}

fn read_extension<'a>(list: &mut Reader<'a>) -> Result<(&'a [u8], Extension<'a>), Bad> {
    let mut extension = list.enter(der::SEQUENCE)?;
    let oid = extension.expect(der::OID)?;
    let critical = extension.boolean_or_false()?;
    let value = extension.expect(der::OCTET_STRING)?;
    extension.end()?;
    Ok((oid, Extension { critical, value }))
}
