import pytest
import torch

from lit_imgproc.models.views import views


@pytest.mark.parametrize("symmetries", ["none", "hflip", "d4", "mirrors"])
@pytest.mark.parametrize("size", [(5, 7), (3, 5, 7)])
def test_every_view_leads_back(symmetries, size):
    images = torch.rand(2, 3, *size)
    looks = views(symmetries, len(size))
    counts = {"none": 1, "hflip": 2, "d4": 8, "mirrors": 2 ** len(size)}
    seen = {there(images).flatten()[:9].numpy().tobytes() for there, _ in looks}
    assert len(looks) == len(seen) == counts[symmetries]
    assert torch.equal(looks[0].there(images), images)
    for there, back in looks:
        assert torch.equal(back(there(images)), images)
