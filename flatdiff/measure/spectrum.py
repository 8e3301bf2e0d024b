"""The largest eigenvalues of the loss's Hessian at the weights, and its trace."""

from .frame import Measure


class HESSIAN(Measure):
    @staticmethod
    def shown(model: dict) -> dict[str, float | None]:
        """The largest eigenvalue."""
        return {"eigenvalue": next(iter(model["eigenvalues"]), None)}
