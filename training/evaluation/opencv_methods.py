"""Matching with OpenCV alone, as its tutorials do, to compare with: give ``training.evaluation.opencv_methods:orb``."""

from __future__ import annotations

import cv2
import numpy as np


def orb(image0: np.ndarray, image1: np.ndarray, max_keypoints: int = 2048) -> tuple[np.ndarray, np.ndarray]:
    """Match by ORB (Rublee et al., ICCV 2011) and mutual nearest neighbours by Hamming distance.

    Args:
        image0, image1: ``H x W x 3`` uint8 RGB.
        max_keypoints: of each image; the threshold of FAST is lowered so that textured images give as many.

    Returns:
        ``N x 2`` float32 matched pixels of each image.
    """
    detector = cv2.ORB.create(nfeatures=max_keypoints, fastThreshold=5)
    (keypoints0, descriptors0), (keypoints1, descriptors1) = (
        detector.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None) for image in (image0, image1)
    )
    if not keypoints0 or not keypoints1:
        return np.empty((0, 2), np.float32), np.empty((0, 2), np.float32)
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(descriptors0, descriptors1)
    points0 = np.array([keypoints0[m.queryIdx].pt for m in matches], np.float32).reshape(-1, 2)
    points1 = np.array([keypoints1[m.trainIdx].pt for m in matches], np.float32).reshape(-1, 2)
    return points0, points1
