//! A SPIFFE ID taken apart for comparison and for words. Nothing is checked or normalised here: rules were validated, and callers
//! were verified, before they came to a table.

/// An identity taken apart, as far as it has Signet's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name<'a> {
    pub(crate) trust_domain: &'a str,
    /// `<trust domain>/ns/<namespace>`: a part of the identity as it stands, so that looking it up copies nothing.
    pub(crate) namespace_key: Option<&'a str>,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) service_account: Option<&'a str>,
}

impl<'a> Name<'a> {
    /// `None`: not even a trust domain. Namespace and service account only when the path is exactly
    /// `/ns/<namespace>/sa/<service account>`.
    pub(crate) fn parse(id: &'a str) -> Option<Self> {
        let rest = id.strip_prefix("spiffe://")?;
        let (trust_domain, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut name = Self { trust_domain, namespace_key: None, namespace: None, service_account: None };
        if let Some(after) = path.strip_prefix("ns/")
            && let Some((namespace, after)) = after.split_once('/')
            && let Some(service_account) = after.strip_prefix("sa/")
            && !namespace.is_empty()
            && !service_account.is_empty()
            && !service_account.contains('/')
        {
            name.namespace_key = rest.get(..trust_domain.len() + "/ns/".len() + namespace.len());
            name.namespace = Some(namespace);
            name.service_account = Some(service_account);
        }
        Some(name)
    }
}
