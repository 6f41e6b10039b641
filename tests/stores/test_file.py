

def test_a_file_in_the_way_of_a_directory_is_no_missing_object(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("in the way")
    store = FileStore(tmp_path / "root")
    with pytest.raises(StoreError, match="cannot write"):
        store.put("a/b", b"x")
    with pytest.raises(NotFound):
        store.get("a/b")
