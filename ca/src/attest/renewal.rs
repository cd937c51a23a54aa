//! Renewal of a valid SVID for a pod that cannot be attested in full at this moment: the API server does not answer, or the pod
//! is terminating. The caller proves that it holds the SVID's key and shows the CA's own receipt of the last full attestation;
//! it gets the identity and UID that it has, for at most 24 h after that.
use super::{
    Refusal, join_token::sha256, kubernetes::PodRefusal, length, nonces, receipt, receipt::Receipts, receipt::Seen,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use signet_identity::{Side, SpiffeId, Trust, TrustDomain, key, profile, verify};
use signet_proto::ca::RenewalProof;
use std::time::Duration;

/// The name in the journal.
pub const NAME: &str = "kubernetes-renewal";
/// How long after a full attestation an SVID may be renewed without another.
pub const LONGEST: Duration = Duration::from_hours(24);
/// What the leaf's key signs, before the nonce and the request's hash.
const CONTEXT: &[u8] = b"signet renew v1\0";

/// A proof whose fields have the right form, and nothing more.
#[derive(Debug)]
pub struct Claim {
    chain: Vec<CertificateDer<'static>>,
    receipt: Vec<u8>,
    nonce: Vec<u8>,
    signature: Vec<u8>,
}

impl Claim {
    /// Checks the form: cheap, before any signature.
    pub fn read(proof: RenewalProof) -> Result<Self, Refusal> {
        length(
            "renewal.chain",
            proof.chain.len(),
            1..=profile::MAX_CHAIN,
            "send leaf and issuing CA, without the root",
        )?;
        for certificate in &proof.chain {
            let want = "one certificate, DER, of at most 8192 bytes";
            length("renewal.chain", certificate.len(), 1..=profile::MAX_CERTIFICATE, want)?;
        }
        length(
            "renewal.receipt",
            proof.receipt.len(),
            1..=receipt::MAX,
            "send the one that came with the certificate",
        )?;
        let want = "ask Challenge for one of 32 bytes";
        length("renewal.nonce", proof.nonce.len(), nonces::LENGTH..=nonces::LENGTH, want)?;
        let want = "an ECDSA P-256 signature in ASN.1 has 8 to 80 bytes";
        length("renewal.signature", proof.signature.len(), 8..=80, want)?;
        let RenewalProof { chain, receipt, nonce, signature } = proof;
        Ok(Self { chain: chain.into_iter().map(Into::into).collect(), receipt, nonce, signature })
    }

    /// The nonce to check and to spend.
    pub fn nonce(&self) -> &[u8] {
        &self.nonce
    }

    /// Who the caller is, if it holds the key of a certificate that is valid at `now` (unix seconds) by today's trust, and the
    /// receipt that belongs to it is not too old.
    pub fn verify(
        &self,
        receipts: &Receipts,
        trust: &Trust,
        trust_domain: &TrustDomain,
        csr: &[u8],
        now: u64,
    ) -> Result<(SpiffeId, Seen), PodRefusal> {
        let refused = PodRefusal::Renewal;
        let seen = receipts.open(&self.receipt).ok_or(refused("the receipt is not of this CA"))?;
        let moment = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let peer = verify::verify_chain(&self.chain, trust, moment, Side::Client);
        let leaf = peer.map_err(|_| refused("it is expired, denied, or not of this mesh"))?.leaf;
        let id = SpiffeId::workload(trust_domain, &seen.namespace, &seen.service_account);
        let id = id.map_err(|_| refused("the receipt is not of this CA"))?;
        if leaf.id != id || leaf.uid.as_ref() != Some(&seen.uid) {
            return Err(refused("the receipt belongs to another certificate"));
        }
        let public = self.chain.first().and_then(|leaf| public_key(leaf)).ok_or(refused("its key cannot be read"))?;
        let message = [CONTEXT, &self.nonce, &sha256(csr)].concat();
        key::verify_signature(&public, &message, &self.signature)
            .map_err(|_| refused("the proof does not verify with its key"))?;
        if now < seen.at || now - seen.at > LONGEST.as_secs() {
            return Err(refused(
                "the pod was last attested in full more than 24 h ago; only the cluster can answer for it now",
            ));
        }
        Ok((id, seen))
    }
}

fn public_key(leaf: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
    Some(parsed.public_key().raw.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use signet_identity::{PrivateKey, TrustState};

    #[test]
    fn f20_whatever_bytes_come_nobody_is_known_by_them() {
        let receipts = Receipts::new(&PrivateKey::generate().unwrap());
        let trust = Trust::new(TrustState::default()).unwrap();
        let td = "example.org".parse().unwrap();
        bolero::check!().for_each(|bytes: &[u8]| {
            let (chain, rest) = bytes.split_at(bytes.len() / 2);
            let proof = RenewalProof {
                chain: vec![chain.to_vec()],
                receipt: rest.to_vec(),
                nonce: vec![0; nonces::LENGTH],
                signature: vec![0; 70],
            };
            if let Ok(claim) = Claim::read(proof) {
                assert!(claim.verify(&receipts, &trust, &td, bytes, 1_800_000_000).is_err());
            }
        });
    }

    #[test]
    fn f25_both_sides_of_every_limit() {
        let with = |certificates: usize, each: usize, receipt: usize, nonce: usize, signature: usize| {
            Claim::read(RenewalProof {
                chain: vec![vec![0; each]; certificates],
                receipt: vec![0; receipt],
                nonce: vec![0; nonce],
                signature: vec![0; signature],
            })
        };
        for (certificates, each, receipt, nonce, signature) in [(1, 1, 1, 32, 8), (3, 8192, 4096, 32, 80)] {
            assert!(with(certificates, each, receipt, nonce, signature).is_ok());
        }
        for (certificates, each, receipt, nonce, signature) in [
            (0, 600, 300, 32, 70),
            (4, 600, 300, 32, 70),
            (2, 0, 300, 32, 70),
            (2, 8193, 300, 32, 70),
            (2, 600, 0, 32, 70),
            (2, 600, 4097, 32, 70),
            (2, 600, 300, 31, 70),
            (2, 600, 300, 33, 70),
            (2, 600, 300, 32, 7),
            (2, 600, 300, 32, 81),
        ] {
            assert!(
                with(certificates, each, receipt, nonce, signature).is_err(),
                "{certificates} {each} {receipt} {nonce} {signature}"
            );
        }
    }
}
