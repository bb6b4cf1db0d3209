import numpy as np
import pytest


@pytest.fixture
def write_raster(tmp_path):
    """Writes ``[C,H,W]`` as a GeoTIFF and returns its path."""
    from lit_imgproc.data.satellite.handles import library, open_quietly

    def write(name, bands, *, crs="EPSG:32633", names=(), mask=None, origin=(0, 0), **profile):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        x, y = origin
        profile.setdefault("transform", library().Affine(10, 0, 500_000 + x, 0, -10, 5_000_000 - y))
        bands = np.asarray(bands)
        shape = {"count": bands.shape[0], "height": bands.shape[1], "width": bands.shape[2]}
        if crs is None:
            profile["transform"] = library().Affine.identity()
        with open_quietly(
            path, "w", driver="GTiff", dtype=bands.dtype.name, crs=crs, **shape, **profile
        ) as file:
            file.write(bands)
            for number, description in enumerate(names, start=1):
                file.set_band_description(number, description)
            if mask is not None:
                file.write_mask(mask)
        return path

    return write
