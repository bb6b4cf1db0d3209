import numpy as np

from lit_imgproc.geometry import boxes_to_original, boxes_to_sample, geometry_of

BOXES = np.array([[1, 2, 5.5, 9], [10, 8, 30, 20]], np.float32)


def test_boxes_of_a_scaled_image_in_its_file_and_back():
    geometry = geometry_of("a.jpg", (80, 120), (40, 30))
    found = boxes_to_original(BOXES, geometry)
    np.testing.assert_array_equal(found, [[4, 4, 22, 18], [40, 16, 120, 40]])
    np.testing.assert_array_equal(boxes_to_sample(found, geometry), BOXES)


def test_boxes_of_a_window_in_its_raster_and_back():
    geometry = {"path": "a.tif", "size": [200, 100], "window": [100, 30, 64, 64]}
    found = boxes_to_original(BOXES, geometry)
    np.testing.assert_array_equal(found[0], [31, 102, 35.5, 109])
    np.testing.assert_array_equal(boxes_to_sample(found, geometry), BOXES)


def test_boxes_end_at_the_edges_of_the_file():
    geometry = {"path": "a.tif", "size": [106, 60], "window": [100, 30, 64, 64]}
    found = boxes_to_original(BOXES, geometry)
    np.testing.assert_array_equal(found, [[31, 102, 35.5, 106], [40, 106, 60, 106]])
