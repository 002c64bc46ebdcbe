"""Medical image segmentation, from folders of DICOM studies to labels, measurements and a worklist."""
