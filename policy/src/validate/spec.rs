//! The `spec` of a rule: target, callers, HTTP clauses, mode.
use super::similar::similar;
use super::walk::{At, Object, Walk};
use super::{MAX_CIDRS, MAX_FROM, MAX_HTTP, MAX_PORTS, MAX_SELECTOR, grammar};
use crate::model::{Expression, From, Mode, PortRef, Selector, Target, Unauthenticated};
use serde_json::Value;
use std::collections::HashMap;

/// As much of the spec as could be read.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) target: Option<Target>,
    pub(super) from: Option<Vec<From>>,
    pub(super) mode: Mode,
}

pub(super) fn read(walk: &mut Walk, top: &Object<'_>) -> Read {
    let want = "what is protected and whom it admits: target and from";
    let Some(at) = walk.required(top, "spec", want) else { return Read::default() };
    let Some(spec) = walk.object(&at, want, &["target", "from", "http", "mode"]) else { return Read::default() };
    let target = target(walk, &spec);
    let from = callers(walk, &spec);
    if let Some(at) = spec.get("http") {
        http(walk, &at);
    }
    let mode = spec.get("mode").and_then(|at| mode(walk, &at)).unwrap_or_default();
    Read { target, from, mode }
}

fn mode(walk: &mut Walk, at: &At<'_>) -> Option<Mode> {
    match at.value.as_str() {
        Some("Enforce") => Some(Mode::Enforce),
        Some("Audit") => Some(Mode::Audit),
        other => {
            let meant = other.and_then(|word| similar(word, &["Enforce", "Audit"]));
            let hint = meant.map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
            walk.wrong(at, format!("Enforce or Audit{hint}"));
            None
        }
    }
}

/// `Some` as soon as it is known which workloads are meant; see `Reading::GuardOnly`.
fn target(walk: &mut Walk, spec: &Object<'_>) -> Option<Target> {
    const FORMS: [&str; 3] = ["service", "podSelector", "all"];
    let want = "exactly one of service, podSelector and all, such as {service: orders, ports: [8080]}";
    let at = walk.required(spec, "target", want)?;
    let object = walk.object(&at, want, &["service", "podSelector", "all", "ports"])?;
    let one = one_form(walk, &object, &FORMS, want);
    let service = object.get("service").and_then(|at| walk.text(&at, grammar::name));
    let pod_selector = object.get("podSelector").and_then(|at| selector(walk, &at));
    let all =
        object.get("all").and_then(|at| only_true(walk, &at, "true, or no such field and service or podSelector"));
    let ports = object.get("ports").and_then(|at| ports(walk, &at));
    let read = service.is_some() || pod_selector.is_some() || all.is_some();
    (one && read).then_some(Target { service, pod_selector, all, ports })
}

/// Whether exactly one of the forms is there.
fn one_form(walk: &mut Walk, object: &Object<'_>, forms: &[&'static str], want: &str) -> bool {
    let present = object.present(forms);
    if present.len() != 1 {
        let found = match present.len() {
            0 if object.is_empty() => "an empty object".to_owned(),
            0 => "none of them".to_owned(),
            _ => present.join(" and "),
        };
        walk.problem(object.path(), found, want);
    }
    present.len() == 1
}

/// A flag that means something only when it is true.
fn only_true(walk: &mut Walk, at: &At<'_>, want: &str) -> Option<bool> {
    let yes = at.value == &Value::Bool(true);
    if !yes {
        walk.wrong(at, want);
    }
    yes.then_some(true)
}

fn ports(walk: &mut Walk, at: &At<'_>) -> Option<Vec<PortRef>> {
    let entries = walk.list(at, "ports by number or name, such as [8080, metrics]", MAX_PORTS)?;
    if entries.is_empty() {
        walk.wrong(at, "at least one port, or no such field for every port");
        return None;
    }
    let mut seen: HashMap<PortRef, String> = HashMap::new();
    walk.each(&entries, |walk, at| {
        let port = port(walk, at)?;
        if let Some(first) = seen.get(&port) {
            walk.wrong(at, format!("each port once; it stands in {first} already"));
            return None;
        }
        seen.insert(port.clone(), at.path.clone());
        Some(port)
    })
}

fn port(walk: &mut Walk, at: &At<'_>) -> Option<PortRef> {
    if let Value::Number(number) = at.value {
        let port = number.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0);
        if port.is_none() {
            walk.wrong(at, "a port number from 1 to 65535");
        }
        return port.map(PortRef::Number);
    }
    if !at.value.is_string() {
        walk.wrong(at, "a port number from 1 to 65535 or a port name, such as 8080 or http");
        return None;
    }
    walk.text(at, grammar::port_name).map(PortRef::Name)
}

fn selector(walk: &mut Walk, at: &At<'_>) -> Option<Selector> {
    let before = walk.count();
    let object = walk.object(
        at,
        "labels of workloads, such as {matchLabels: {app: orders}}",
        &["matchLabels", "matchExpressions"],
    )?;
    let match_labels = object.get("matchLabels").and_then(|at| walk.labels(&at, MAX_SELECTOR)).unwrap_or_default();
    let match_expressions = object.get("matchExpressions").and_then(|at| {
        let entries = walk.list(&at, "requirements, such as [{key: tier, operator: Exists}]", MAX_SELECTOR)?;
        walk.each(&entries, expression)
    });
    // With any part not understood, even an unknown field, it is not known which workloads are meant.
    let understood = walk.count() == before;
    understood.then(|| Selector { match_labels, match_expressions: match_expressions.unwrap_or_default() })
}

fn expression(walk: &mut Walk, at: &At<'_>) -> Option<Expression> {
    const OPERATORS: [&str; 4] = ["In", "NotIn", "Exists", "DoesNotExist"];
    let want = "a requirement, such as {key: tier, operator: In, values: [web]}";
    let object = walk.object(at, want, &["key", "operator", "values"])?;
    let key = walk.required_text(&object, "key", grammar::label_key);
    let operator = walk.required(&object, "operator", "In, NotIn, Exists or DoesNotExist").and_then(|at| {
        let word = at.value.as_str();
        let known = word.filter(|word| OPERATORS.contains(word));
        if known.is_none() {
            let meant = word.and_then(|word| similar(word, &OPERATORS));
            let hint = meant.map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
            walk.wrong(&at, format!("In, NotIn, Exists or DoesNotExist{hint}"));
        }
        known.map(str::to_owned)
    });
    let values = match object.get("values") {
        None => Some(Vec::new()),
        Some(at) => {
            let entries = walk.list(&at, "label values, such as [web]", MAX_SELECTOR)?;
            walk.each(&entries, |walk, at| walk.text(at, grammar::label_value))
        }
    };
    let expression = Expression { key: key?, operator: operator?, values: values? };
    let takes_values = matches!(expression.operator.as_str(), "In" | "NotIn");
    if takes_values == expression.values.is_empty() {
        let want =
            if takes_values { "at least one value, such as [web]" } else { "no values: the operator takes none" };
        let found = format!("{} of them", expression.values.len());
        walk.problem(&format!("{}.values", at.path), found, want);
        return None;
    }
    Some(expression)
}

fn callers(walk: &mut Walk, spec: &Object<'_>) -> Option<Vec<From>> {
    let want = "callers, such as [{serviceAccount: checkout}]; [] admits nobody";
    let at = walk.required(spec, "from", want)?;
    let entries = walk.list(&at, want, MAX_FROM)?;
    walk.each(&entries, caller)
}

fn caller(walk: &mut Walk, at: &At<'_>) -> Option<From> {
    let want = "exactly one of serviceAccount (with or without namespace), namespace, identity, anyAuthenticated and \
                unauthenticated; several callers are several entries";
    let known = ["serviceAccount", "namespace", "identity", "anyAuthenticated", "unauthenticated"];
    let object = walk.object(at, want, &known)?;
    // A namespace with a service account is one form.
    let forms: &[&str] = if object.get("serviceAccount").is_some() {
        &["serviceAccount", "identity", "anyAuthenticated", "unauthenticated"]
    } else {
        &known
    };
    let one = one_form(walk, &object, forms, want);
    let flag = "true, or another form of caller; to admit nobody leave the entry out";
    let from = From {
        namespace: object.get("namespace").and_then(|at| walk.text(&at, grammar::namespace)),
        service_account: object.get("serviceAccount").and_then(|at| walk.text(&at, grammar::service_account)),
        identity: object.get("identity").and_then(|at| walk.text(&at, grammar::spiffe_id)),
        any_authenticated: object.get("anyAuthenticated").and_then(|at| only_true(walk, &at, flag)),
        unauthenticated: object.get("unauthenticated").and_then(|at| unauthenticated(walk, &at)),
    };
    one.then_some(from)
}

fn unauthenticated(walk: &mut Walk, at: &At<'_>) -> Option<Unauthenticated> {
    let want = "networks from which plaintext is admitted, such as {cidrs: [10.20.0.0/16]}";
    let object = walk.object(at, want, &["cidrs"])?;
    let at = walk.required(&object, "cidrs", want)?;
    let entries = walk.list(&at, "networks, such as [10.20.0.0/16]", MAX_CIDRS)?;
    if entries.is_empty() {
        walk.wrong(&at, "at least one network, such as [10.20.0.0/16]");
        return None;
    }
    walk.each(&entries, |walk, at| walk.text(at, grammar::cidr)).map(|cidrs| Unauthenticated { cidrs })
}

/// Read in full, so that its mistakes are seen today, and always refused: a rule must not admit more than it says.
fn http(walk: &mut Walk, at: &At<'_>) {
    walk.problem(
        &at.path,
        "a clause for HTTP".to_owned(),
        "no such field yet: HTTP clauses are not enforced by this version, so the rule admits nobody and its ports stay guarded",
    );
    let want = "requests, such as [{methods: [GET], path: {prefix: /v1/orders}}]";
    let Some(entries) = walk.list(at, want, MAX_HTTP) else { return };
    if entries.is_empty() {
        walk.wrong(at, "at least one kind of request, or no such field for all traffic of the port");
    }
    for at in &entries {
        request(walk, at);
    }
}

fn request(walk: &mut Walk, at: &At<'_>) {
    let want = "methods, path or both, such as {methods: [GET], path: {prefix: /v1/orders}}";
    let Some(object) = walk.object(at, want, &["methods", "path"]) else { return };
    if object.is_empty() {
        walk.wrong(at, format!("{want}; for every request leave http out"));
    }
    if let Some(at) = object.get("methods")
        && let Some(methods) = walk.list(&at, "methods, such as [GET, HEAD]", MAX_HTTP)
    {
        if methods.is_empty() {
            walk.wrong(&at, "at least one method, or no such field for every method");
        }
        for at in &methods {
            walk.text(at, grammar::method);
        }
    }
    if let Some(at) = object.get("path") {
        let want = "exactly one of prefix and exact, such as {prefix: /v1/orders}";
        let Some(object) = walk.object(&at, want, &["prefix", "exact"]) else { return };
        one_form(walk, &object, &["prefix", "exact"], want);
        for field in ["prefix", "exact"] {
            if let Some(at) = object.get(field) {
                walk.text(&at, grammar::path);
            }
        }
    }
}
