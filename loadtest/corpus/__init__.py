"""What is sent, if signing is not what is measured? Messages that were signed before, kept in a cache."""

from loadtest.corpus.cache import Corpus, Progress, cache_of, provide
from loadtest.corpus.order import Content, Order

__all__ = ["Content", "Corpus", "Order", "Progress", "cache_of", "provide"]
