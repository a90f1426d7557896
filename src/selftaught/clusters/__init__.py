"""Clusters as a product: kept, named, matched, given to new images; what stands out from them."""
