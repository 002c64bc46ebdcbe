"""Small rasters that tests write."""

import numpy as np
import rasterio
from rasterio.transform import from_origin


def write_raster(path, image, epsg=32633, west=500000.0, north=5000000.0, pixel=2.0, **settings):
    """Write (bands, rows, columns) as GeoTIFF and return the path."""
    image = np.asarray(image)
    profile = {
        "driver": "GTiff",
        "count": image.shape[0],
        "height": image.shape[1],
        "width": image.shape[2],
        "dtype": image.dtype,
        "crs": f"EPSG:{epsg}" if epsg else None,
        "transform": from_origin(west, north, pixel, pixel),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **{**profile, **settings}) as out:
        out.write(image)
    return path


def picture(bands=3, rows=40, columns=50, dtype="uint8", seed=0):
    """Random values from 1 to 199."""
    return np.random.default_rng(seed).integers(1, 200, (bands, rows, columns)).astype(dtype)
