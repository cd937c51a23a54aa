//! What a configuration file may hold, and what its user is told when it is wrong.
use super::*;
use std::fmt::Debug;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

fn parse(text: &str) -> File {
    File::parse(Path::new("conf/test.toml"), text).unwrap()
}

/// The only setting of a file that holds `key = <value>`.
fn read<T: Setting>(value: &str) -> Result<T, Problems> {
    let mut file = parse(&format!("key = {value}\n"));
    let read = file.root().required("key", "something else");
    file.finish(|| read)
}

fn lines(error: &Problems) -> Vec<String> {
    error.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn reads_every_kind_of_value() {
    fn case<T: Setting + PartialEq + Debug>(text: &str, want: &T) {
        assert_eq!(&read::<T>(text).unwrap(), want, "{text}");
    }
    case("true", &true);
    case("0xff", &255u8);
    case("65_535", &65535u16);
    case("-3", &-3i64);
    case("1.5", &1.5f64);
    case("2", &2f64);
    case("\"a b\"", &"a b".to_owned());
    case("\"[::1]:80\"", &"[::1]:80".parse::<SocketAddr>().unwrap());
    case("\"10.0.0.0/8\"", &"10.0.0.0/8".parse::<ipnet::IpNet>().unwrap());
    case("[1, 2]", &vec![1u16, 2]);
    case("\"64KiB\"", &Bytes(65536));
    case("\"1GiB\"", &Bytes(1 << 30));
    case("512", &Bytes(512));
    case("\"250ms\"", &Duration::from_millis(250));
    case("\"10s\"", &Duration::from_secs(10));
    case("\"5m\"", &Duration::from_mins(5));
    case("\"2h\"", &Duration::from_hours(2));
    case("\"3d\"", &Duration::from_hours(72));
}

#[test]
fn paths_are_relative_to_the_file() {
    assert_eq!(read::<PathBuf>("\"ca/root.pem\"").unwrap(), Path::new("conf/ca/root.pem"));
    assert_eq!(read::<PathBuf>("\"/etc/root.pem\"").unwrap(), Path::new("/etc/root.pem"));
}

#[test]
fn refuses_what_does_not_fit_and_says_what_was_found() {
    fn case<T: Setting + Debug>(text: &str, found: &str) {
        let error = read::<T>(text).unwrap_err();
        assert_eq!(lines(&error), [format!("conf/test.toml:1: key: found {found}; want something else")]);
    }
    case::<bool>("1", "1");
    case::<u16>("65536", "65536 (not from 0 to 65535)");
    case::<u16>("-1", "-1 (not from 0 to 65535)");
    case::<u16>("\"80\"", "\"80\"");
    case::<u64>("0xffffffffffffffffffffffffffffffffffff", "0xffffffffffffffffffffffffffffffffffff");
    case::<String>("1979-05-27", "1979-05-27");
    case::<String>("{a = 1}", "a table");
    case::<SocketAddr>("\"localhost:80\"", "\"localhost:80\" (invalid socket address syntax)");
    case::<Duration>("10", "10 (a duration has a unit)");
    case::<Duration>("\"10\"", "\"10\" (units are ms, s, m, h, d)");
    case::<Duration>("\"s\"", "\"s\" (units are ms, s, m, h, d)");
    case::<Duration>("\"-1s\"", "\"-1s\" (units are ms, s, m, h, d)");
    case::<Duration>("\"99999999999999999d\"", "\"99999999999999999d\" (units are ms, s, m, h, d)");
    case::<Bytes>("\"64KB\"", "\"64KB\" (units are B, KiB, MiB, GiB)");
    case::<Vec<u16>>("[1, \"x\"]", "an array of 2 (element 2, \"x\", does not fit)");
    case::<PathBuf>("\"\"", "\"\" (not a path)");
    case::<f64>("inf", "inf");
}

#[test]
fn reports_every_problem_at_once_in_the_order_of_the_file() {
    let text = "listen = 80\nworkrs = 2\n\n[limits]\nconnections = 0\n\n[ca]\n# nothing\n\n[tunel]\n";
    let mut file = parse(text);
    let mut root = file.root();
    let listen: Option<SocketAddr> = root.required("listen", "an address such as 127.0.0.1:80");
    let workers = root.ranged("workers", 1u16, 1..=64);
    let mut limits = root.table("limits");
    let connections = limits.ranged("connections", 16384u32, 1..=1_000_000);
    let idle = root.table("tunnel").or("idle", Duration::from_secs(1), "a duration");
    let address: Option<String> = root.table("ca").required("address", "host:port");
    let name: Option<String> = root.required("name", "a name");
    let error = file
        .finish(|| Some((listen?, workers?, connections?, address?, name?, idle?)))
        .expect_err("seven problems, so no configuration");
    assert_eq!(
        lines(&error),
        [
            "conf/test.toml:1: listen: found 80; want an address such as 127.0.0.1:80",
            "conf/test.toml:2: workrs: found an unknown key; want \"workers\", or no such key",
            "conf/test.toml:5: limits.connections: found 0; want 1 to 1000000",
            "conf/test.toml:7: ca.address: found no such key; want host:port",
            "conf/test.toml:10: tunel: found an unknown key; want \"tunnel\", or no such key",
            "conf/test.toml: name: found no such key; want a name",
        ]
    );
}

#[test]
fn an_unknown_key_with_no_near_one_lists_what_there_is() {
    let mut file = parse("colour = 1\n");
    let mut root = file.root();
    let read = (root.or("listen", 1u16, ""), root.or("workers", 1u16, ""));
    let error = file.finish(|| Some((read.0?, read.1?))).unwrap_err();
    assert_eq!(lines(&error), ["conf/test.toml:1: colour: found an unknown key; want one of listen, workers"]);
}

#[test]
fn unknown_keys_are_found_in_every_depth() {
    let mut file = parse("[[rule]]\nname = \"a\"\nnmae = \"b\"\n[a.b]\nc = 1\nd = 2\n");
    let mut root = file.root();
    let names: Option<Vec<String>> = root.tables("rule").iter_mut().map(|t| t.required("name", "a name")).collect();
    let c = root.table("a").table("b").required::<u8>("c", "a number");
    let error = file.finish(|| Some((names?, c?))).unwrap_err();
    assert_eq!(
        lines(&error),
        [
            "conf/test.toml:3: rule[0].nmae: found an unknown key; want \"name\", or no such key",
            "conf/test.toml:6: a.b.d: found an unknown key; want \"c\", or no such key",
        ]
    );
}

#[test]
fn what_is_no_table_is_reported_once() {
    let mut file = parse("ca = 5\n");
    let address = file.root().table("ca").required::<String>("address", "host:port");
    let error = file.finish(|| address).unwrap_err();
    assert_eq!(lines(&error), ["conf/test.toml:1: ca: found 5; want a table, [ca]"]);
}

#[test]
fn maps_take_the_users_own_keys() {
    let mut file = parse("[names]\n\"spiffe://a/b\" = [\"x.example\"]\n");
    let names = file.root().map::<Vec<String>>("names", "DNS names");
    let names = file.finish(|| names).unwrap();
    assert_eq!(names, BTreeMap::from([("spiffe://a/b".to_owned(), vec!["x.example".to_owned()])]));
}

#[test]
fn a_syntax_error_names_its_line() {
    let error = File::parse(Path::new("a.toml"), "x = 1\ny = = 2\n").err().expect("not TOML");
    assert!(error.to_string().starts_with("a.toml:2: found "), "{error}");
    let error = File::parse(Path::new("a.toml"), "x = 1\nx = 2\n").err().expect("a key twice");
    assert!(error.to_string().starts_with("a.toml:2: found "), "{error}");
}

#[test]
fn a_problem_is_one_line_whatever_the_file_holds() {
    let error = read::<u16>("\"a\\nb\\u001b[2J\"").unwrap_err();
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    assert!(!error.to_string().contains('\u{1b}'), "{error}");
}

#[test]
fn a_file_that_others_may_write_is_refused_with_the_mend() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.toml");
    std::fs::File::create(&path).unwrap().write_all(b"a = 1\n").unwrap();
    for (mode, good) in [(0o600, true), (0o644, true), (0o664, false), (0o646, false)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        match File::open(&path) {
            Ok(_) => assert!(good, "mode {mode:o} must be refused"),
            Err(error) => {
                assert!(!good, "mode {mode:o} must be accepted: {error}");
                assert!(error.to_string().contains(&format!("chmod go-w {}", path.display())), "{error}");
            }
        }
    }
}

#[test]
fn what_cannot_be_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.toml");
    let refusal = |path: &Path| File::open(path).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(refusal(&path).contains("no such file"));
    assert!(refusal(directory.path()).contains("not a file"));
    std::fs::write(&path, b"a = 1\nb = \"\xff\"\n").unwrap();
    assert!(refusal(&path).contains("s.toml:2: found bytes that are not UTF-8"), "{}", refusal(&path));
    std::fs::write(&path, vec![b'\n'; 1024 * 1024 + 1]).unwrap();
    assert!(refusal(&path).contains("more than 1 MiB"));
}

#[test]
fn bounds_are_shown_as_the_user_writes_them() {
    let mut file = parse("idle = \"1h\"\nsize = 1\n");
    let mut root = file.root();
    let idle = root.ranged("idle", Duration::from_mins(1), Duration::from_millis(1500)..=Duration::from_mins(10));
    let size = root.ranged("size", Bytes(4096), Bytes(1024)..=Bytes(65536));
    let error = file.finish(|| Some((idle?, size?))).unwrap_err();
    assert_eq!(
        lines(&error),
        [
            "conf/test.toml:1: idle: found \"1h\"; want \"1500ms\" to \"10m\"",
            "conf/test.toml:2: size: found 1; want \"1KiB\" to \"64KiB\"",
        ]
    );
}

#[test]
fn the_log_table_has_defaults_and_bounds() {
    let log = |text: &str| {
        let mut file = parse(text);
        let log = LogSettings::read(&mut file.root().table("log"));
        file.finish(|| log)
    };
    assert_eq!(log("").unwrap(), LogSettings::default());
    let json = LogSettings { format: LogFormat::Json, filter: "debug".to_owned() };
    assert_eq!(log("log = {format = \"json\", filter = \"debug\"}").unwrap(), json);
    assert_eq!(log("log = {format = \"xml\", filter = \"a=b=c\"}").unwrap_err().0.len(), 2);
}

#[test]
fn f18_a_log_line_stays_one_line() {
    let mut out = OneLine(Vec::new());
    out.write_all("peer said \"a\r\nINFO forged\u{1b}[2J\u{9b}2J\u{e9}\"\n".as_bytes()).unwrap();
    let text = String::from_utf8(out.0).unwrap();
    assert_eq!(text, "peer said \"a\\u000d\\u000aINFO forged\\u001b[2J\\u009b2J\u{e9}\"\n");
}

#[test]
fn problems_of_an_environment_variable_name_it_and_the_line() {
    let read =
        |value: Option<&str>| File::from_variable("SIGNET_CONFIG", value.map(Into::into)).err().map(|e| e.to_string());
    assert_eq!(read(Some("a = 1\n")), None);
    let absent = read(None).expect("must be refused");
    assert!(absent.starts_with("SIGNET_CONFIG: found no such environment variable; want"), "{absent}");
    let broken = read(Some("a = 1\nb = \n")).expect("must be refused");
    assert!(broken.starts_with("SIGNET_CONFIG:2:"), "{broken}");
    let large = read(Some(&"#".repeat(MAX_FILE as usize + 1))).expect("must be refused");
    assert!(large.contains("more than 1 MiB"), "{large}");
}
