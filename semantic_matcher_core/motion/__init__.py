"""From matches to motion: disparity, relative and metric pose, odometry, localisation.

Convention, everywhere in this package:
    - Camera frames are optical frames (REP-103): x right, y down, z forward. Lengths in metres, angles in radians.
    - A pose says where a thing is: ``Pose(R, t)`` of a camera takes points of the camera's frame to its parent's,
      ``X_parent = R X_camera + t`` (camera-to-world). A relative pose is that of the second camera in the first one's
      frame. ``a @ b`` chains, ``a.inverse()`` turns round.
    - A covariance is ``6 x 6`` as in geometry_msgs/PoseWithCovariance: translation x, y, z, then rotation about the
      fixed axes x, y, z of the *parent* frame, so that the true pose is ``Pose(exp(δθ) R, t + δt)``.
    - Pixels are those of the image as given, (0, 0) the centre of the top-left one, lens distortion and all, unless a
      text says otherwise.
"""
