"""What does the house do under a load of this kind? A scenario is played at a set rate, watched, judged, reported."""
