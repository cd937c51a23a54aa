//! What the checks read, whether the present user may, and what lets him: the roles `signet-view` of the chart.
use crate::cluster::{Read, ask};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use kube::api::PostParams;
use kube::{Api, Client};
use std::fmt;

/// Where something is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the whole cluster, whichever namespace was chosen.
    Cluster,
    /// In the chosen namespace; in all where none was.
    Chosen,
    /// Where CA and operator are.
    Control,
}

/// One thing that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) verb: &'static str,
    /// With its group behind a dot.
    pub(super) resource: &'static str,
    /// This one alone.
    pub(super) name: Option<&'static str>,
    pub(super) place: Place,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        self.name.map_or(Ok(()), |name| write!(f, "/{name}"))
    }
}

const fn list(resource: &'static str, place: Place) -> Access {
    Access { verb: "list", resource, name: None, place }
}

const fn named(resource: &'static str, name: &'static str) -> Access {
    Access { verb: "list", resource, name: Some(name), place: Place::Cluster }
}

pub(super) const WEBHOOKS: Access =
    named("mutatingwebhookconfigurations.admissionregistration.k8s.io", super::install::WEBHOOK);
pub(super) const POLICIES: Access = list("validatingadmissionpolicies.admissionregistration.k8s.io", Place::Cluster);
pub(super) const BINDINGS: Access =
    list("validatingadmissionpolicybindings.admissionregistration.k8s.io", Place::Cluster);
pub(super) const DEFINITION: Access = named("customresourcedefinitions.apiextensions.k8s.io", "allowrules.signet.dev");
pub(super) const COPIES: Access = named("configmaps", "signet-trust");
pub(super) const SLICES: Access = list("endpointslices.discovery.k8s.io", Place::Control);
pub(super) const RULES: Access = list("allowrules.signet.dev", Place::Chosen);
pub(super) const NETWORK: Access = list("networkpolicies.networking.k8s.io", Place::Chosen);

/// All of it.
pub(super) const READS: [Access; 14] = [
    list("pods", Place::Chosen),
    list("services", Place::Chosen),
    RULES,
    NETWORK,
    list("namespaces", Place::Cluster),
    list("deployments.apps", Place::Cluster),
    COPIES,
    WEBHOOKS,
    POLICIES,
    BINDINGS,
    DEFINITION,
    list("configmaps", Place::Control),
    SLICES,
    // An upgrade is a GET, and newer API servers want both verbs for it.
    Access { verb: "create", resource: "pods/portforward", name: None, place: Place::Control },
];

/// What the user may not do of all that is read.
pub(super) async fn lacking(client: &Client, control: &str, chosen: Option<&str>) -> Read<Vec<Access>> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let parameters = PostParams::default();
    let mut lacking = Vec::new();
    for access in READS {
        let (resource, group) = access.resource.split_once('.').unwrap_or((access.resource, ""));
        let (resource, subresource) = resource.split_once('/').map_or((resource, None), |(r, s)| (r, Some(s)));
        let namespace = match access.place {
            Place::Cluster => None,
            Place::Chosen => chosen,
            Place::Control => Some(control),
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(access.verb.into()),
                    group: Some(group.into()),
                    resource: Some(resource.into()),
                    subresource: subresource.map(str::to_owned),
                    name: access.name.map(str::to_owned),
                    namespace: namespace.map(str::to_owned),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let answer =
            ask("create", "selfsubjectaccessreviews.authorization.k8s.io", reviews.create(&parameters, &review));
        if !matches!(answer.await?.status, Some(SubjectAccessReviewStatus { allowed: true, .. })) {
            lacking.push(access);
        }
    }
    Ok(lacking)
}

/// Who asks, as the API server knows him.
pub(super) async fn user(client: &Client) -> Option<String> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let (parameters, review) = (PostParams::default(), SelfSubjectReview::default());
    let answer = ask("create", "selfsubjectreviews.authentication.k8s.io", reviews.create(&parameters, &review)).await;
    // Without it the hint has a gap to be filled.
    answer.ok()?.status?.user_info?.username
}

/// The line that lets this user read what the checks read: in a namespace, or everywhere.
pub(super) fn grant(control: &str, namespace: Option<&str>, user: Option<&str>) -> String {
    let user = user.unwrap_or("USER");
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let binding: String = user.chars().map(|c| if bare(c) { c } else { '-' }).collect();
    let binding = format!("signet-view-{}", binding.trim_matches('-'));
    let user = if user.chars().all(|c| bare(c) || matches!(c, ':' | '@' | '_' | '/')) {
        user.to_owned()
    } else {
        format!("'{}'", user.replace('\'', r"'\''"))
    };
    let what = match namespace {
        Some(namespace) => {
            format!("kubectl -n {namespace} create rolebinding {binding} --clusterrole=signet-view --user={user}")
        }
        None => format!(
            "kubectl create clusterrolebinding {binding} --clusterrole=signet-view --user={user} && \
             kubectl -n {control} create rolebinding {binding} --role=signet-view --user={user}"
        ),
    };
    format!("somebody who may grant it runs: {what}")
}

#[cfg(test)]
mod tests {
    //! The line, for users of every kind.
    use super::grant;

    #[test]
    fn the_line_can_be_typed_whatever_the_user_is_called() {
        let everywhere = grant("mesh", None, Some("system:serviceaccount:shop:visitor"));
        assert!(
            everywhere.ends_with(
                "kubectl create clusterrolebinding signet-view-system-serviceaccount-shop-visitor \
                 --clusterrole=signet-view --user=system:serviceaccount:shop:visitor && kubectl -n mesh create rolebinding \
                 signet-view-system-serviceaccount-shop-visitor --role=signet-view --user=system:serviceaccount:shop:visitor"
            ),
            "{everywhere}"
        );
        let here = grant("mesh", Some("shop"), Some("it's; rm -rf"));
        assert!(
            here.ends_with(
                r"kubectl -n shop create rolebinding signet-view-it-s--rm--rf --clusterrole=signet-view --user='it'\''s; rm -rf'"
            ),
            "{here}"
        );
    }
}
