from django.db import models


class Invoice(models.Model):
    token = models.CharField(max_length=40, primary_key=True)
    number = models.BigIntegerField(unique=True)

    def __str__(self):
        return str(self.number)
