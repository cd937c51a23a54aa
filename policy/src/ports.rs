//! A value for each port and one for all others: the shape of everything that a table knows. Built once by `table`, then only
//! read; what holds for every port is merged into each port's own value, so that a look-up is one search.

/// How two rules' contributions to the same port become one.
pub(crate) trait Merge {
    /// Takes `other` into `self`; the order of merging must not matter.
    fn merge(&mut self, other: &Self);
}

/// Contributions in the order in which they came: `None` holds for every port.
#[derive(Debug)]
pub(crate) struct Scoped<T>(Vec<(Option<u16>, T)>);

impl<T> Default for Scoped<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Merge + Default + Clone> Scoped<T> {
    /// Adds a contribution.
    pub(crate) fn add(&mut self, port: Option<u16>, value: T) {
        // Rules for the same caller and port are common; merging before the vector grows keeps it as long as its result.
        if self.0.len() == self.0.capacity() && self.0.len() >= 1024 {
            self.compact();
        }
        self.0.push((port, value));
    }

    fn compact(&mut self) {
        self.0.sort_by_key(|(port, _)| *port);
        self.0.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1.merge(&later.1);
            }
            same
        });
        // Twice the room that is used, so that compaction costs a constant for each contribution.
        self.0.reserve(self.0.len().max(1024));
    }

    /// The finished look-up.
    pub(crate) fn finish(mut self) -> PerPort<T> {
        self.compact();
        let mut rest = self.0.into_iter().peekable();
        let all = rest.next_if(|(port, _)| port.is_none()).map(|(_, value)| value).unwrap_or_default();
        let mut ports: Vec<(u16, T)> = rest
            .filter_map(|(port, mut value)| {
                value.merge(&all);
                port.map(|port| (port, value))
            })
            .collect();
        let few = match ports.len() {
            0 | 1 => ports.pop().map_or(Few::None, |(port, value)| Few::One(port, value)),
            _ => Few::Many(ports.into_boxed_slice()),
        };
        PerPort { all, few }
    }
}

/// A value for each port.
#[derive(Debug, Clone, Default)]
pub(crate) struct PerPort<T> {
    all: T,
    few: Few<T>,
}

/// Most callers are admitted on no port, one, or all: no allocation for those.
#[derive(Debug, Clone, Default)]
enum Few<T> {
    #[default]
    None,
    One(u16, T),
    /// Sorted by port.
    Many(Box<[(u16, T)]>),
}

impl<T> PerPort<T> {
    /// The same ports with other values.
    pub(crate) fn map<U>(self, each: impl Fn(T) -> U) -> PerPort<U> {
        let few = match self.few {
            Few::None => Few::None,
            Few::One(port, value) => Few::One(port, each(value)),
            Few::Many(ports) => Few::Many(ports.into_iter().map(|(port, value)| (port, each(value))).collect()),
        };
        PerPort { all: each(self.all), few }
    }

    /// The value of one port.
    pub(crate) fn at(&self, port: u16) -> &T {
        let own = match &self.few {
            Few::None => None,
            Few::One(own, value) => (*own == port).then_some(value),
            Few::Many(ports) => {
                ports.binary_search_by_key(&port, |(own, _)| *own).ok().and_then(|at| ports.get(at)).map(|(_, v)| v)
            }
        };
        own.unwrap_or(&self.all)
    }
}
