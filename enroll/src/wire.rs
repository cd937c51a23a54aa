//! The trust state between its wire form (`signet.ca.v1.TrustState`) and the type that the verifier uses. Every field is
//! checked on its way in, and a state with one bad field is refused whole.
use signet_identity::{Bundle, DenyList, IdError, TrustState};
use signet_proto::ca as wire;
use std::collections::BTreeMap;

/// Why a trust state from the wire cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A bundle under a name that is no trust domain.
    #[error("trust state names the trust domain {0:?}: {1}")]
    TrustDomain(String, IdError),
    /// Two bundles for one trust domain.
    #[error("trust state has two bundles for trust domain {0}")]
    TwoBundles(String),
    /// A denied identity that is none.
    #[error("trust state denies the identity {0:?}: {1}")]
    Identity(String, IdError),
}

/// From the wire.
pub fn trust_state_from_wire(message: wire::TrustState) -> Result<TrustState, WireError> {
    let shown = |text: &str| text.chars().take(100).collect::<String>();
    let mut bundles = BTreeMap::new();
    for bundle in message.bundles {
        let td = bundle.trust_domain.parse().map_err(|e| WireError::TrustDomain(shown(&bundle.trust_domain), e))?;
        let roots = bundle.roots.into_iter().map(Into::into).collect();
        if bundles.insert(td, Bundle { roots }).is_some() {
            return Err(WireError::TwoBundles(bundle.trust_domain));
        }
    }
    let identities = message.denied_identities.into_iter();
    let identities = identities.map(|id| id.parse().map_err(|e| WireError::Identity(shown(&id), e)));
    let deny = DenyList {
        issuers: message.denied_issuers.into_iter().collect(),
        serials: message.denied_serials.into_iter().collect(),
        identities: identities.collect::<Result<_, _>>()?,
    };
    Ok(TrustState { sequence: message.sequence, bundles, deny })
}

/// To the wire.
pub fn trust_state_to_wire(state: &TrustState) -> wire::TrustState {
    let bundles = state.bundles.iter().map(|(td, bundle)| wire::Bundle {
        trust_domain: td.to_string(),
        roots: bundle.roots.iter().map(|root| root.to_vec()).collect(),
    });
    wire::TrustState {
        sequence: state.sequence,
        bundles: bundles.collect(),
        denied_issuers: state.deny.issuers.iter().cloned().collect(),
        denied_serials: state.deny.serials.iter().cloned().collect(),
        denied_identities: state.deny.identities.iter().map(ToString::to_string).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use signet_identity::testing::Authority;

    #[test]
    fn a_trust_state_survives_the_wire() {
        let ca = Authority::new("prod.example");
        let mut state = ca.trust_state(77);
        state.deny.issuers.insert(vec![1, 2]);
        state.deny.serials.insert(vec![3]);
        state.deny.identities.insert(ca.id("a", "b"));
        assert_eq!(trust_state_from_wire(trust_state_to_wire(&state)), Ok(state));
    }

    #[test]
    fn one_bad_field_refuses_the_whole() {
        let good = trust_state_to_wire(&Authority::new("prod.example").trust_state(1));
        let bundle = &good.bundles[0];
        let named = wire::Bundle { trust_domain: "PROD".into(), ..bundle.clone() };
        let state = wire::TrustState { bundles: vec![bundle.clone(), named], ..good.clone() };
        assert!(matches!(trust_state_from_wire(state), Err(WireError::TrustDomain(..))));
        let state = wire::TrustState { bundles: vec![bundle.clone(), bundle.clone()], ..good.clone() };
        assert_eq!(trust_state_from_wire(state), Err(WireError::TwoBundles("prod.example".into())));
        let state = wire::TrustState { denied_identities: vec!["spiffe://a//b".into()], ..good };
        assert!(matches!(trust_state_from_wire(state), Err(WireError::Identity(..))));
    }
}
