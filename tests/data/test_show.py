import numpy as np
import torch
from given import Given, Samples, noise

from lit_imgproc import pictures
from lit_imgproc.data.imagenet.datamodule import Digits
from lit_imgproc.data.show import contact_sheet, draw


def test_the_sheet_shows_what_an_epoch_of_training_begins_with():
    data = Digits(num_workers=0, batch_size=4, augment={"train": "shift"}, image_size=32)
    dataset = data.dataset("train")
    for epoch in (0, 3):
        keys = list(data.training_order(epoch))
        assert len({index for index, _ in keys}) == len(keys) == len(dataset) // 4 * 4 + 3
        expected = pictures.grid([draw(dataset[key], dataset.class_names) for key in keys[:6]])
        assert (contact_sheet(data, "train", 6, augmented=True, epoch=epoch) == expected).all()


def test_without_augmentation_images_are_spread_over_the_split():
    data = Digits(num_workers=0)
    dataset = data.dataset("test")
    tiles = [draw(dataset[i], dataset.class_names) for i in (0, 89, 179)]
    assert (contact_sheet(data, "test", 3, augmented=False) == pictures.grid(tiles)).all()
    assert contact_sheet(data, "test", 10_000, augmented=False).shape[0] > 1000


def test_boxes_and_masks_lie_where_they_belong():
    masks = torch.zeros(1, 32, 32, dtype=torch.uint8)
    masks[0, 4:12, 8:24] = 1
    sample = noise(
        "a", boxes=torch.tensor([[8.0, 4, 24, 12]]), labels=torch.tensor([1]), masks=masks
    )
    plain, drawn = (draw(one, ("x", "cell")) for one in (noise("a", label=1), sample))
    changed = (plain[:128, :128] != drawn[:128, :128]).any(2)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max() + 1) == (16, 48)
    assert (columns.min(), columns.max() + 1) == (32, 96)


def test_a_volume_is_shown_by_the_slice_in_its_middle():
    volume = torch.zeros(1, 5, 32, 32)
    volume[0, 2, :16] = 1
    mask = torch.zeros(5, 32, 32).long()
    mask[2, 16:] = 1
    tile = draw({"image": volume, "mask": mask, "id": "a"}, ("ground", "organ"))
    assert (tile[:64, :128] == 255).all()
    assert tile[64:128, :128].any()


def test_captions_and_several_labels_are_written():
    blank = draw(noise("a", captions=[]), ())
    told = draw(noise("a", captions=["a dog on a sofa", "another"]), ())
    assert told.shape[0] > blank.shape[0]
    several = noise("a", label=torch.tensor([1.0, 0.0, 1.0]))
    data = Given(train=Samples([several]))
    data.dataset("train").class_names = ("one", "two", "three")
    sheet = contact_sheet(data, "train", 4, augmented=False)
    expected = pictures.grid([draw(several, ("one", "two", "three"))])
    assert (sheet == expected).all()


def test_a_target_is_shown_beside_its_image():
    target = torch.zeros(3, 64, 64, dtype=torch.uint8)
    target[0] = 255
    alone, pair = draw(noise("a"), ()), draw(noise("a", target=target), ())
    assert pair.shape[1] > 2 * 128 > alone.shape[1]
    assert (pair[4:132, 4:132] == alone[:128]).all()
    assert (pair[4:132, 136:264] == [255, 0, 0]).all()
