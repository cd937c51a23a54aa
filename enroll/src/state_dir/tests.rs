//! What the state directory lets in and gives back.
use super::*;
use signet_identity::testing::Authority;
use std::os::unix::fs::PermissionsExt;

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    (directory, path)
}

fn registration(key: PrivateKey) -> Registration {
    Registration {
        key,
        host_key_id: "ab12".into(),
        id: "spiffe://prod.example/ns/shop/sa/orders".parse().unwrap(),
        uid: "orders-1".parse().unwrap(),
        token_hash: "cd34".into(),
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_missing_directory_is_made_for_its_owner_alone() {
    let (_keep, path) = fresh();
    StateDir::open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
    StateDir::open(&path).expect("and found again");
}

#[test]
fn a_directory_or_file_that_others_can_open_is_refused_with_the_mend() {
    let (_keep, path) = fresh();
    let state = StateDir::open(&path).unwrap();
    state.set_registration(&registration(PrivateKey::generate().unwrap())).unwrap();
    for mode in [0o750, 0o705, 0o710, 0o770] {
        set_mode(&path, mode);
        let error = StateDir::open(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("chmod 0700 {}", path.display())), "{error}");
    }
    set_mode(&path, 0o700);
    let file = path.join("host.key");
    set_mode(&file, 0o640);
    let error = state.registration().unwrap_err().to_string();
    assert!(error.contains(&format!("chmod 0600 {}", file.display())), "{error}");
}

#[test]
fn a_file_in_the_place_of_the_directory_is_refused() {
    let (_keep, path) = fresh();
    fs::write(&path, "").unwrap();
    assert!(matches!(StateDir::open(&path), Err(StateError::NotADirectory(_))));
}

#[test]
fn a_registration_comes_back_as_it_was_stored_and_its_key_is_pending_no_longer() {
    let (_keep, path) = fresh();
    let state = StateDir::open(&path).unwrap();
    assert!(state.registration().unwrap().is_none());
    let key = state.pending_key().unwrap();
    let public = key.public_key_der();
    assert_eq!(state.pending_key().unwrap().public_key_der(), public, "the same key as long as it is pending");
    state.set_registration(&registration(key)).unwrap();
    drop(state);
    let state = StateDir::open(&path).unwrap();
    let found = state.registration().unwrap().unwrap();
    assert_eq!(found.key.public_key_der(), public);
    assert_eq!((found.host_key_id.as_str(), found.token_hash.as_str()), ("ab12", "cd34"));
    assert_eq!((found.id.as_str(), found.uid.as_str()), ("spiffe://prod.example/ns/shop/sa/orders", "orders-1"));
    assert_ne!(state.pending_key().unwrap().public_key_der(), public, "the next registration has another key");
    for entry in fs::read_dir(&path).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }
}

#[test]
fn a_write_that_a_crash_cut_short_harms_nothing() {
    let (_keep, path) = fresh();
    let state = StateDir::open(&path).unwrap();
    for name in ["host.key.new", "pending.key.new", "trust.state.new"] {
        fs::write(path.join(name), "half of").unwrap();
        set_mode(&path.join(name), 0o600);
    }
    assert!(state.registration().unwrap().is_none());
    assert!(state.trust().unwrap().is_none());
    let key = state.pending_key().unwrap();
    state.set_registration(&registration(key)).unwrap();
    let ca = Authority::new("prod.example");
    state.set_trust(&ca.trust_state(9)).unwrap();
    assert_eq!(state.trust().unwrap(), Some(ca.trust_state(9)));
    assert!(state.registration().unwrap().is_some());
}

#[test]
fn a_broken_file_is_named_with_its_mend() {
    let (_keep, path) = fresh();
    let state = StateDir::open(&path).unwrap();
    for (name, content) in [("host.key", "nothing of use"), ("host.key", "\u{fffd}"), ("trust.state", "\x0f\x0f\x0f")] {
        fs::write(path.join(name), content).unwrap();
        set_mode(&path.join(name), 0o600);
    }
    for error in [state.registration().unwrap_err(), state.trust().unwrap_err()] {
        assert!(error.to_string().contains("remove it"), "{error}");
    }
}

#[test]
fn no_key_is_shown_by_debug() {
    let shown = format!("{:?}", registration(PrivateKey::generate().unwrap()));
    assert!(shown.contains("PrivateKey(..)"), "{shown}");
}

#[test]
fn a_second_process_in_the_same_directory_is_refused_by_name() {
    let (_keep, path) = fresh();
    let first = StateDir::open(&path).unwrap();
    let kept = first.clone();
    drop(first);
    let error = StateDir::open(&path).unwrap_err();
    assert!(matches!(error, StateError::InUse(_)), "{error}");
    assert!(error.to_string().contains(&format!("{} is in use", path.display())), "{error}");
    drop(kept);
    StateDir::open(&path).expect("free again");
}
