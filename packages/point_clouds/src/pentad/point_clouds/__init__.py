"""Objects in LiDAR sweeps."""
