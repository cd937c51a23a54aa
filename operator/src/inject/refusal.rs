//! Why a pod was left as it is, and why it was refused: in words for whoever runs `kubectl describe`, and in codes for machines.
use std::fmt;

/// Why a pod stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// Neither it nor its namespace opted in.
    NotOptedIn,
    /// It opted out.
    Disabled,
    /// Its namespace is one that nothing is injected into.
    ExcludedNamespace,
    /// It has the node's network.
    HostNetwork,
    /// It is the kubelet's own.
    StaticPod,
}

impl Skip {
    /// The cause, for machines.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotOptedIn => "not-opted-in",
            Self::Disabled => "disabled",
            Self::ExcludedNamespace => "excluded-namespace",
            Self::HostNetwork => "host-network",
            Self::StaticPod => "static-pod",
        }
    }

    /// The cause, for people; nothing where nobody expected a sidecar.
    pub fn message(self) -> Option<&'static str> {
        matches!(self, Self::HostNetwork).then_some(
            "host-network: this pod has the node's network, in which nothing can be captured, so that it has no sidecar; \
             its calls are plaintext, and only an `unauthenticated` clause admits them",
        )
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// What is wrong with a pod, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Not from an API server.
    #[error("this is no Pod; want one with a metadata, a spec, and containers")]
    Malformed,
    /// A value that is none.
    #[error("annotation {key}: found {found:?}; want {want}")]
    Annotation {
        /// Which.
        key: String,
        /// Its value, shortened.
        found: String,
        /// What would be right.
        want: String,
    },
    /// A key that is none.
    #[error("annotation {key}: no such annotation; want one of {known}")]
    UnknownAnnotation {
        /// Which.
        key: String,
        /// All there are.
        known: String,
    },
    /// Both at once cannot be.
    #[error(
        "annotation signet.dev/inject is enabled on a pod with hostNetwork: it has the node's network, in which nothing can be \
         captured; want hostNetwork: false, or no such annotation"
    )]
    HostNetwork,
    /// Pod Security would refuse the container that writes the redirect rules.
    #[error(
        "namespace {namespace} enforces Pod Security \"{level}\" (label pod-security.kubernetes.io/enforce), which refuses \
         NET_ADMIN, and {CAPTURE} needs it to write the redirect rules; want \"privileged\" there (audit and warn may stay \
         \"{level}\"), or signet.dev/inject: disabled on this pod",
        CAPTURE = super::CAPTURE
    )]
    PodSecurity {
        /// The pod's.
        namespace: String,
        /// What it enforces.
        level: String,
    },
    /// There is no sidecar for it.
    #[error("spec.os.name: the sidecar is a Linux program; want linux, or signet.dev/inject: disabled")]
    NotLinux,
    /// Somebody else has a name of ours.
    #[error("{place}: the name {name:?} is Signet's own; want another name")]
    NameTaken {
        /// In the pod.
        place: String,
        /// Ours.
        name: String,
    },
    /// Somebody else has a port of ours.
    #[error("{place}: port {port} is the sidecar's (15001, 15006, 15008, 15020, 15021); want another port")]
    PortTaken {
        /// In the pod.
        place: String,
        /// Ours.
        port: u16,
    },
    /// Connections of that user are not captured.
    #[error(
        "{place}.runAsUser: {} is the sidecar's user, whose connections nobody guards; want another user",
        super::UID
    )]
    UidTaken {
        /// In the pod.
        place: String,
    },
    /// A probe or hook that cannot be replayed.
    #[error("{place}: {found}; want {want}")]
    Probe {
        /// In the pod.
        place: String,
        /// What is wrong.
        found: String,
        /// What would be right.
        want: String,
    },
}

impl Refusal {
    /// A wrong value of an annotation; shortened, since a pod's author chose its length.
    pub(super) fn annotation(key: &str, found: &str, want: impl Into<String>) -> Self {
        Self::Annotation { key: key.to_owned(), found: shorten(found), want: want.into() }
    }

    pub(super) fn probe(place: impl Into<String>, found: impl Into<String>, want: impl Into<String>) -> Self {
        Self::Probe { place: place.into(), found: found.into(), want: want.into() }
    }
}

/// At most 80 characters.
pub(super) fn shorten(text: &str) -> String {
    const SHOWN: usize = 80;
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    text.chars().take(SHOWN).chain("...".chars()).collect()
}
