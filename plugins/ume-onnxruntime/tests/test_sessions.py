"""Options of ONNX Runtime's providers."""

from __future__ import annotations

from pathlib import Path

from ume_onnxruntime.sessions import tensorrt_settings


def test_tensorrt_engines_are_kept_where_they_can_be(tmp_path: Path) -> None:
    kept = tensorrt_settings(1, tmp_path / "cache")
    assert kept["trt_engine_cache_enable"] and kept["trt_timing_cache_enable"]
    assert kept["trt_engine_cache_path"] == kept["trt_timing_cache_path"] == str(tmp_path / "cache")
    assert (tmp_path / "cache").is_dir()


def test_a_read_only_export_is_served_without_a_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    plain = tensorrt_settings(1, tmp_path / "file" / "cache")
    assert plain == {"device_id": 1, "trt_load_user_initializer": True}
