use super::*;

fn with_mode(mode: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
    dir
}

#[test]
fn refuses_a_directory_that_others_can_reach_and_names_the_chmod() {
    for mode in [0o755, 0o750, 0o701, 0o770] {
        let dir = with_mode(mode);
        let error = StateDir::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("chmod 0700 {}", dir.path().display())), "{mode:o}: {error}");
        assert!(error.contains(&format!("{mode:04o}")), "{error}");
    }
}

#[test]
fn creates_a_missing_directory_for_its_owner_alone() {
    let parent = with_mode(0o700);
    let path = parent.path().join("ca");
    StateDir::open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn one_process_at_a_time() {
    let dir = with_mode(0o700);
    let first = StateDir::open(dir.path()).unwrap();
    assert!(matches!(StateDir::open(dir.path()), Err(StateDirError::InUse(_))));
    drop(first);
    StateDir::open(dir.path()).unwrap();
}

#[test]
fn a_secret_that_others_could_read_is_refused_with_the_chmod() {
    let dir = with_mode(0o700);
    let state = StateDir::open(dir.path()).unwrap();
    state.write("root.key", b"secret", 0o600).unwrap();
    assert_eq!(state.read_secret("root.key").unwrap().unwrap().as_str(), "secret");
    fs::set_permissions(state.file("root.key"), fs::Permissions::from_mode(0o640)).unwrap();
    let error = state.read_secret("root.key").unwrap_err().to_string();
    assert!(error.contains("chmod 0600"), "{error}");
}

#[test]
fn a_file_is_replaced_whole_with_the_mode_asked_for() {
    let dir = with_mode(0o700);
    let state = StateDir::open(dir.path()).unwrap();
    state.write("bundle.pem", b"one", 0o644).unwrap();
    state.write("bundle.pem", b"two", 0o644).unwrap();
    assert_eq!(state.read("bundle.pem").unwrap().as_deref(), Some("two"));
    assert_eq!(fs::metadata(state.file("bundle.pem")).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(state.read("missing").unwrap(), None);
}
