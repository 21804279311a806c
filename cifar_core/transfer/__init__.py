"""Adapting a pretrained network: its features of all images, and a head that is trained on them.

backbone = load_backbone()
train = features(backbone, data.train.images, hardware, cache=default_cache()).values
head = fit([train], data.train.labels, HeadRecipe(mirrored=False), classes=10)
predictions = head.predict(features(backbone, data.val.images, hardware).values, data.val)
"""
